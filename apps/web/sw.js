// Offline use: each answer of the server is kept; without the network the kept one is given.
// With the network the server is always asked (a file that has not changed costs no download),
// so a new bundle shows at once. Raise the version to drop everything that was kept.
const CACHE = 'fastai-deploy-web-1'
const PAGE = ['./', 'style.css', 'app.js', 'core.js', 'worker.js', 'manifest.webmanifest', 'icon.svg',
  'vendor/ort.wasm.bundle.min.mjs'] // the runtime, the model and vocab.txt are kept as they are loaded

addEventListener('install', event => {
  skipWaiting()
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(PAGE)))
})

addEventListener('activate', event => event.waitUntil((async () => {
  for (const name of await caches.keys())
    if (name.startsWith('fastai-deploy-web-') && name !== CACHE) await caches.delete(name)
  await clients.claim()
})()))

addEventListener('fetch', event => {
  const { request } = event
  if (request.method === 'GET' && request.url.startsWith(registration.scope)) event.respondWith(answer(event))
})

async function answer(event) {
  const cache = await caches.open(CACHE)
  try {
    const response = await fetch(event.request, { cache: 'no-cache' })
    if (response.ok) event.waitUntil(cache.put(event.request, response.clone()))
    return response
  } catch (error) {
    return await cache.match(event.request, { ignoreSearch: true }) ?? Promise.reject(error)
  }
}
