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
const UNREADABLE = 'not a picture that the browser can read, or a damaged one'

/**
 * Load a bundle. `onBytes(loaded, total)` hears of the download; total is NaN if the server does not tell.
 * JavaScript sees no ONNX metadata, hence bundle.json and vocab.txt.
 */
export async function loadBundle(url = 'bundle/', onBytes = () => {}) {
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
  return {
    session: await ort.InferenceSession.create(model, { executionProviders: ['wasm'] }),
    task: facts.task,
    output: facts.output.name,
    threshold: facts.output.threshold ?? 0.5,
    maxPixels: facts.input.max_pixels,
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

/** The raw output, a Float32Array. All resizing is inside the model. */
export async function run({ session, output }, { rgb, width, height }) {
  // The resize's tables grow with the longest side; no JPEG has a longer one.
  if (Math.max(width, height) > 65535) throw new Refused('a side of more than 65535 pixels')
  const picture = new ort.Tensor('uint8', rgb, [height, width, 3])
  const results = await session.run({ picture }, [output])
  return results[output].data
}

/**
 * The numbers as an answer.
 * classification: {label, index, prob, top}   multilabel: {labels, top}   regression, points: {values}
 */
export function answerOf({ task, vocab, threshold }, numbers) {
  if (task === 'regression' || task === 'points') return { values: [...numbers] }
  if (task !== 'classification' && task !== 'multilabel')
    throw new Refused(`the bundle's task is ${task}: only classes and numbers are shown here, run() in core.js gives the raw output`)
  const all = [...numbers].map((prob, index) => ({ label: vocab[index], index, prob }))
  const top = all.toSorted((a, b) => b.prob - a.prob).slice(0, 5) // a stable sort: the first of equals wins
  if (task === 'multilabel') return { labels: all.filter(c => c.prob > threshold).map(c => c.label), top }
  return { ...top[0], top }
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
