// Runs core.js off the main thread, so that the page stays responsive.
// In: {id, file}. Out: {progress}, {ready}, {id, answer}, or {id, error}: one line for the user.
import { loadBundle, decode, predict, Refused } from './core.js'

const oneLine = error => error instanceof Refused ? error.message : `something went wrong: ${String(error.message).split('\n')[0]}`

// worker.js?max_pixels=… (app.js hands on what the page was called with) takes the place of the bundle's own limit.
const most = new URLSearchParams(location.search).get('max_pixels')
const loading = loadBundle('bundle/', (loaded, total) => postMessage({ progress: { loaded, total } }),
  most === null ? {} : { maxPixels: Number(most) })
loading.then(
  ({ task, vocab }) => postMessage({ ready: { task, vocab } }),
  error => postMessage({ error: oneLine(error) }))

let queue = Promise.resolve() // one picture after the other
onmessage = ({ data: { id, file } }) => {
  queue = queue.then(async () => {
    const bundle = await loading
    const picture = await decode(file, bundle.maxPixels)
    const start = performance.now()
    const answer = await predict(bundle, picture)
    postMessage({ id, answer, width: picture.width, height: picture.height, ms: performance.now() - start })
  }).catch(error => postMessage({ id, error: oneLine(error) }))
}
