// The whole of it: load a bundle, decode a picture, predict. No page in here: lift it into your own program.
//
//   const bundle = await loadBundle('bundle/')
//   const picture = await decode(file, bundle.maxPixels)      // a File or Blob
//   const answer = await predict(bundle, picture)             // {label: 'six', prob: 0.99, top: [...]}
//
// It works in a page and in a module worker (a worker keeps the page responsive).
import * as ort from './vendor/ort.wasm.bundle.min.mjs'

// Threads need a page that is cross-origin isolated (the headers COOP and COEP). Without them: one thread.
if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1

/** An error whose message is one line for the user. */
export class Refused extends Error {}
const MOST_PIXELS = 500_000_000
const UNREADABLE = 'not an image that the browser can read, or a damaged one'

/** What an answer is made of, where it is not the net's own output: names of outputs of pixels.onnx. */
const MADE_OF = { points: ['places'], segmentation: ['mask', 'window'], image_to_image: ['levels'] }

/**
 * Load a bundle. `onBytes(loaded, total)` hears of the download; total is NaN if the server does not tell.
 * `maxPixels`: images with more pixels are refused; by default the bundle's own limit (mostly 50 million).
 * JavaScript sees no ONNX metadata, hence bundle.json and vocab.txt.
 */
export async function loadBundle(url = 'bundle/', onBytes = () => {}, { maxPixels } = {}) {
  if (maxPixels !== undefined && !(Number.isInteger(maxPixels) && maxPixels > 0 && maxPixels <= MOST_PIXELS))
    throw new Refused(`max_pixels must be a number from 1 to ${MOST_PIXELS}`)
  const base = new URL(url, new URL('.', import.meta.url))
  const at = name => new URL(name, base)
  const about = await fetch(at('bundle.json'), { cache: 'no-cache' })
  if (!about.ok) throw new Refused('there is no bundle: put the exported folder beside this page, as bundle/')
  const facts = await about.json().catch(() => {
    throw new Refused('bundle/bundle.json is not JSON: copy the exported bundle again')
  })
  if (facts.format !== 'fastai_deploy/1')
    throw new Refused(`bundle/bundle.json has the format ${facts.format}; this page reads fastai_deploy/1`)

  // The runtime and the model download side by side; the bytes of both are counted together.
  const files = [
    [new URL('./vendor/ort-wasm-simd-threaded.wasm', import.meta.url), 'vendor/ is empty: run npm install and npm run build'],
    [at('pixels.onnx'), 'the bundle has no pixels.onnx: export it again (model.onnx alone needs the item transforms)'],
  ]
  const seen = files.map(() => ({ loaded: 0, total: NaN }))
  const sum = key => seen.reduce((n, s) => n + s[key], 0)
  const [wasm, model] = await Promise.all(files.map(([file, missing], i) => download(file, missing, (loaded, total) => {
    seen[i] = { loaded, total }
    onBytes(sum('loaded'), sum('total'))
  })))
  ort.env.wasm.wasmBinary = wasm

  let vocab = [] // one class per line; a regression has none
  if (['classification', 'multilabel', 'segmentation'].includes(facts.task)) {
    const response = await fetch(at('vocab.txt'), { cache: 'no-cache' })
    if (!response.ok) throw new Refused('the bundle has no vocab.txt: copy the exported bundle again')
    vocab = (await response.text()).replace(/\r?\n$/, '').split(/\r?\n/)
  }
  const session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] })
  const madeOf = MADE_OF[facts.task] ?? [facts.output.name]
  if (!madeOf.every(name => session.outputNames.includes(name)))
    throw new Refused(`the pixels.onnx of the bundle has no output ${madeOf.join(', ')}: export it again`)
  return {
    session,
    task: facts.task,
    output: facts.output.name,
    madeOf,
    threshold: facts.output.threshold ?? 0.5,
    maxPixels: maxPixels ?? facts.input.max_pixels,
    vocab,
  }
}

async function download(url, missing, onBytes) {
  const response = await fetch(url, { cache: 'no-cache' })
  if (!response.ok) throw new Refused(missing)
  const packed = response.headers.has('content-encoding') // then the length is that of the packed bytes
  const total = packed ? NaN : Number(response.headers.get('content-length') ?? NaN)
  const parts = []
  let loaded = 0
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read()
    if (done) break
    parts.push(value)
    onBytes(loaded += value.length, total)
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

/** The bundle's answer to a picture {rgb, width, height}: see `answerOf`. */
export async function predict(bundle, picture) {
  return answerOf(bundle, await run(bundle, picture))
}

/** Outputs of the model by their names, as tensors {data, dims}. All resizing is inside the model. */
export async function run({ session, madeOf }, { rgb, width, height }, outputs = madeOf) {
  // The resize's tables grow with the longest side; no JPEG has a longer one.
  if (Math.max(width, height) > 65535) throw new Refused('a side of more than 65535 pixels')
  return await session.run({ picture: new ort.Tensor('uint8', rgb, [height, width, 3]) }, outputs)
}

/**
 * What the outputs say.
 * classification: {label, index, prob, top}   multilabel: {labels, top}   regression: {values}
 * points: {points: [[x, y], ...]}, in pixels of the picture
 * segmentation: {shares: [{label, index, share}, ...], mask, width, height, window}: mask has the index of a class for each
 *   of its width * height pixels; it belongs on the picture at window {top, left, width, height}, which may stick out
 * image_to_image: {image, width, height, channels}: image has 3 bytes a pixel, or 1 if it is grey
 */
export function answerOf({ task, output, vocab, threshold }, outputs) {
  if (task === 'regression') return { values: [...outputs[output].data] }
  if (task === 'points') return { points: pairs(outputs.places.data) }
  if (task === 'segmentation') return maskOf(outputs, vocab)
  if (task === 'image_to_image') {
    const [height, width, channels] = outputs.levels.dims
    return { image: outputs.levels.data, width, height, channels }
  }
  const all = [...outputs[output].data].map((prob, index) => ({ label: vocab[index], index, prob }))
  const top = all.toSorted((a, b) => b.prob - a.prob).slice(0, 5) // a stable sort: the first of equals wins
  if (task === 'multilabel') return { labels: all.filter(c => c.prob > threshold).map(c => c.label), top }
  return { ...top[0], top }
}

const pairs = numbers => Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]])

function maskOf({ mask: { data: mask, dims: [height, width] }, window: { data: [top, left, high, wide] } }, vocab) {
  const counts = vocab.map(() => 0)
  for (const index of mask) counts[index]++
  const shares = vocab.map((label, index) => ({ label, index, share: counts[index] / mask.length }))
    .filter(c => c.share).sort((a, b) => b.share - a.share)
  return { shares, mask, width, height, window: { top, left, width: wide, height: high } }
}

/**
 * A picture file as bytes: {rgb, width, height}, as Pillow's Image.open(f).convert('RGB') gives them:
 * not rotated (EXIF), no colour management (ICC), alpha dropped.
 */
export async function decode(blob, maxPixels = Infinity) {
  const bytes = new Uint8Array(await blob.arrayBuffer())
  const checkSize = (width, height) => {
    if (width * height > maxPixels)
      throw new Refused(`too large: ${width} x ${height}, more than ${maxPixels} pixels`)
  }
  if (!bytes.length) throw new Refused('the file is empty')
  const parts = pixelsOnly(bytes, checkSize)
  const file = new Blob([await new Blob(parts).arrayBuffer()], { type: blob.type }) // Firefox wants it in one part

  let bitmap
  try {
    // No option of it turns the EXIF rotation off in every browser: hence pixelsOnly().
    bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' })
  } catch {
    throw new Refused(UNREADABLE)
  }
  try {
    checkSize(bitmap.width, bitmap.height) // the kinds whose header pixelsOnly() does not read
    return await readPixels(bitmap)
  } finally {
    bitmap.close()
  }
}

/**
 * A bitmap's pixels, without loss. A 2d canvas multiplies colours by alpha and so loses some of them;
 * a VideoFrame hands out the bytes as they are. The canvas is for browsers that have no VideoFrame:
 * there, only pictures with transparent parts differ.
 */
async function readPixels(bitmap) {
  let { width, height } = bitmap
  let data, blueFirst, frame
  try {
    frame = new VideoFrame(bitmap, { timestamp: 0 })
    if (!/^(RGB|BGR)[AX]$/.test(frame.format)) throw new Error(frame.format)
    data = new Uint8Array(frame.allocationSize())
    await frame.copyTo(data)
    ;({ width, height } = frame.visibleRect)
    blueFirst = frame.format[0] === 'B'
  } catch {
    const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })
    context.drawImage(bitmap, 0, 0)
    data = context.getImageData(0, 0, width, height).data
  } finally {
    frame?.close()
  }
  const rgb = new Uint8Array(width * height * 3)
  const [r, b] = blueFirst ? [2, 0] : [0, 2]
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from + r]
    rgb[to + 1] = data[from + 1]
    rgb[to + 2] = data[from + b]
  }
  return { rgb, width, height }
}

/**
 * A JPEG or PNG without what would turn or recolour its pixels (EXIF, colour profiles), as parts for a Blob.
 * Its size is checked as soon as the header tells it. One that is cut off is refused, which not every browser does.
 * Other kinds go through as they are.
 */
function pixelsOnly(bytes, checkSize) {
  const view = new DataView(bytes.buffer)
  const parts = []
  let at = 0
  const keep = end => { parts.push(bytes.subarray(at, end)); at = end }
  try { // reading behind the end throws
    if (view.getUint32(0) === 0x89504e47) { // PNG: keep the chunks that make the pixels
      checkSize(view.getUint32(16), view.getUint32(20))
      if (bytes[24] === 16 && bytes[25] === 0) throw new Refused('a 16-bit grey PNG is not supported')
      keep(8)
      for (let name; name !== 'IEND';) {
        const end = at + 12 + view.getUint32(at)
        name = String.fromCharCode(...bytes.subarray(at + 4, at + 8))
        if (['IHDR', 'PLTE', 'tRNS', 'IDAT', 'IEND'].includes(name)) keep(end)
        else at = end
      }
    } else if (view.getUint16(0) === 0xffd8) { // JPEG: drop the segments APP1 (EXIF) and APP2 (ICC)
      keep(2)
      for (let marker; (marker = view.getUint16(at)) !== 0xffda;) { // up to the start of the scan
        const end = marker === 0xffff ? at + 1 : at + 2 + view.getUint16(at + 2) // 0xff may be repeated
        if (marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker))
          checkSize(view.getUint16(at + 7), view.getUint16(at + 5))
        if (marker === 0xffe1 || marker === 0xffe2) at = end
        else keep(end)
      }
      const last = bytes.findLastIndex((byte, i) => byte === 0xd9 && bytes[i - 1] === 0xff)
      if (last < at) throw new RangeError('no end marker')
      keep(bytes.length)
    } else keep(bytes.length)
  } catch (error) {
    throw error instanceof Refused ? error : new Refused(UNREADABLE)
  }
  return parts
}
