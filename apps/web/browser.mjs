// For test.mjs and compare.mjs: serves this folder and opens it in a headless Chromium that is already installed.
import { createServer } from 'node:http'
import { existsSync } from 'node:fs'
import { chromium } from 'playwright-core'
import sirv from 'sirv'

/** Serve this folder, with `folders` ({'/bundle': dir}) in place of those below it. A blank page is at /blank. */
export async function serve(folders = {}, post = () => {}) {
  const here = sirv(import.meta.dirname, { dev: true })
  const others = Object.entries(folders).map(([prefix, dir]) => [prefix + '/', sirv(dir, { dev: true, dotfiles: true })])
  const server = createServer((request, response) => {
    const none = () => { response.statusCode = 404; response.end() }
    if (request.method === 'POST') return post(request, response)
    if (request.url === '/blank') return response.setHeader('content-type', 'text/html').end('<!doctype html>')
    for (const [prefix, files] of others) {
      if (!request.url.startsWith(prefix)) continue
      request.url = request.url.slice(prefix.length - 1)
      return files(request, response, none)
    }
    here(request, response, none)
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://localhost:${server.address().port}/`, close: () => { server.closeAllConnections(); server.close() } }
}

/** A headless Chromium: $CHROMIUM, Debian's, or an installed Chrome or Edge. None is downloaded. */
export async function launch(args = []) {
  const places = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser'].filter(p => p && existsSync(p))
  const ways = [...places.map(executablePath => ({ executablePath })), { channel: 'chrome' }, { channel: 'msedge' }]
  for (const way of ways) {
    try { return await chromium.launch({ ...way, args }) } catch { /* the next */ }
  }
  console.error('web: no Chromium was found: install it (Debian: chromium) or set CHROMIUM to its path')
  process.exit(1)
}
