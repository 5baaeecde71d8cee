// npm test: the goldens through core.js, then the page itself, in a headless Chromium.
// BUNDLE=dir npm test takes another bundle than bundle/.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { crc32, deflateSync } from 'node:zlib'
import { launch, serve } from './browser.mjs'

const BUNDLE = process.env.BUNDLE ?? 'bundle'
const TOLERANCE = 1e-5 // for numbers above 1 (a regression): of the number
if (!existsSync(`${BUNDLE}/golden/golden.json`)) {
  console.error(`web: ${BUNDLE}/golden/golden.json is not there: put a bundle in bundle/, or set BUNDLE to its folder`)
  process.exit(1)
}
if (!existsSync('vendor/ort.wasm.bundle.min.mjs')) {
  console.error('web: vendor/ is empty: npm run build')
  process.exit(1)
}
const goldens = JSON.parse(readFileSync(`${BUNDLE}/golden/golden.json`))
const facts = JSON.parse(readFileSync(`${BUNDLE}/bundle.json`))

let site, browser
before(async () => {
  site = await serve({ '/bundle': BUNDLE })
  browser = await launch(['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'])
})
after(async () => { await browser?.close(); site?.close() })

async function open(path = '', options = {}, url = site.url) {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  await page.goto(url + path)
  return page
}

const ready = page => page.waitForFunction(() => document.getElementById('status').textContent.includes('ready'))
const text = (page, id) => page.locator('#' + id).textContent()

/** Wait for the answer to a golden and compare it with what fastai said. */
async function answered(page, golden) {
  await page.waitForFunction(() => / ms$/.test(document.getElementById('detail').textContent))
  const status = await text(page, 'status')
  if (facts.task === 'classification') {
    assert.match(status, new RegExp(`^${golden.label} \\d+\\.\\d%$`))
    const n = Math.min(5, golden.probs.length)
    assert.equal(await page.locator('#top li').count(), n)
    const likeliest = (100 * Math.max(...golden.probs)).toFixed(1)
    assert.ok((await page.locator('#top li').first().textContent()).includes(likeliest + '%'))
  } else if (facts.task === 'multilabel') assert.equal(status, golden.label || 'None of the classes.')
  else assert.ok(Math.abs(parseFloat(status.replaceAll(',', '')) / golden.probs[0] - 1) < 1e-3, status)
  assert.equal(await text(page, 'error'), '')
}

/** A PNG file of raw rows, each beginning with its filter byte. Without rows: only the header. */
function png(width, height, depth, type, rows) {
  const number = n => { const b = Buffer.alloc(4); b.writeUInt32BE(n); return b }
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name), data])
    return Buffer.concat([number(data.length), body, number(crc32(body))])
  }
  const header = Buffer.concat([number(width), number(height), Buffer.from([depth, type, 0, 0, 0])])
  return Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), chunk('IHDR', header),
    ...rows ? [chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))] : []])
}

/** decode() in the browser: {rgb, width, height}, or {error}. */
const decoded = (page, bytes, type = 'image/png', max = Infinity) => page.evaluate(async ([list, type, max]) => {
  const { decode } = await import('/core.js')
  try {
    const { rgb, width, height } = await decode(new Blob([new Uint8Array(list)], { type }), max)
    return { rgb: [...rgb], width, height }
  } catch (error) { return { error: error.message } }
}, [[...bytes], type, max])

test('the goldens, through core.js', async t => {
  const page = await open('blank')
  const found = await page.evaluate(async files => {
    const { loadBundle, decode, run, answerOf } = await import('/core.js')
    const bundle = await loadBundle()
    const found = []
    for (const file of files) {
      const blob = await (await fetch('/bundle/golden/' + file)).blob()
      const numbers = await run(bundle, await decode(blob, bundle.maxPixels))
      found.push({ numbers: [...numbers], answer: answerOf(bundle, numbers) })
    }
    return found
  }, goldens.map(g => g.file))
  let worst = 0
  found.forEach(({ numbers, answer }, i) => {
    const { file, probs, label, decided } = goldens[i]
    assert.equal(numbers.length, probs.length, file)
    const off = Math.max(...numbers.map((x, k) => Math.abs(x - probs[k]) / Math.max(1, Math.abs(probs[k]))))
    worst = Math.max(worst, off)
    assert.ok(off <= TOLERANCE, `${file}: a number is off by ${off}`)
    if (facts.task === 'classification') assert.deepEqual([answer.label, answer.index], [label, decided[0]], file)
    if (facts.task === 'multilabel') assert.equal(answer.labels.join('; '), label, file)
  })
  t.diagnostic(`${found.length} goldens, largest difference ${worst.toExponential(1)}`)
  await page.context().close()
})

test('decode: alpha is dropped, not blended', async () => {
  const page = await open('blank')
  const row = width => [0, ...Array.from({ length: width * 4 }, (_, i) => (i * 73) % 256)]
  const { rgb, width, height } = await decoded(page, png(31, 3, 8, 6, Buffer.from([row(31), row(31), row(31)].flat())))
  assert.deepEqual([width, height], [31, 3])
  const one = row(31).slice(1).filter((_, i) => i % 4 < 3)
  assert.deepEqual(rgb, [one, one, one].flat())
  await page.context().close()
})

test('decode: a JPEG is not rotated by EXIF, and not read without its end', async () => {
  const page = await open('blank')
  const jpeg = Buffer.from(await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(40, 24)
    const context = canvas.getContext('2d')
    context.fillStyle = 'red'
    context.fillRect(0, 0, 15, 9)
    return [...new Uint8Array(await (await canvas.convertToBlob({ type: 'image/jpeg' })).arrayBuffer())]
  }))
  const exif = Buffer.from('ffe1002245786966000049492a0008000000010012010300010000000600000000000000', 'hex') // orientation 6
  const turned = Buffer.concat([jpeg.subarray(0, 2), exif, jpeg.subarray(2)])
  const plain = await decoded(page, jpeg, 'image/jpeg')
  assert.deepEqual([plain.width, plain.height], [40, 24])
  assert.deepEqual(await decoded(page, turned, 'image/jpeg'), plain)
  // The browser itself does take this EXIF for a rotation, so the test tests something.
  const shown = await page.evaluate(async list =>
    (await createImageBitmap(new Blob([new Uint8Array(list)], { type: 'image/jpeg' }))).width, [...turned])
  assert.equal(shown, 24)
  // A JPEG without its end is refused, as Pillow does.
  assert.match((await decoded(page, jpeg.subarray(0, -2), 'image/jpeg')).error, /damaged/)
  await page.context().close()
})

test('decode: what is refused, in one line', async () => {
  const page = await open('blank')
  const whole = readFileSync(`${BUNDLE}/golden/${goldens[0].file}`)
  const cases = [
    [Buffer.alloc(0), /empty/],
    [Buffer.from('hello, this is text'), /not a picture/],
    [whole.subarray(0, 20), /not a picture/],
    [whole.subarray(0, whole.length / 2), /damaged/],
    [png(10001, 5000, 8, 2), /too large: 10001 x 5000, more than 50000000 pixels/], // told by the header alone
    [png(8, 8, 16, 0), /16-bit grey/],
  ]
  for (const [bytes, expected] of cases) {
    const { error } = await decoded(page, bytes, 'image/png', 50000000)
    assert.match(error, expected)
    assert.ok(!error.includes('\n'))
  }
  const error = await page.evaluate(async () => {
    const { answerOf } = await import('/core.js')
    try { answerOf({ task: 'segmentation' }, []) } catch (error) { return error.message }
  })
  assert.match(error, /task is segmentation: .* run\(\)/)
  await page.context().close()
})

test('the page: choose, drop and paste a picture', async () => {
  const page = await open()
  await ready(page)
  const golden = i => goldens[i % goldens.length]
  const path = i => `${BUNDLE}/golden/${golden(i).file}`
  await page.setInputFiles('#file', path(0))
  await answered(page, golden(0))
  const send = (kind, i) => page.evaluate(([kind, list]) => {
    const data = new DataTransfer()
    data.items.add(new File([new Uint8Array(list)], 'a.png', { type: 'image/png' }))
    const event = kind === 'drop' ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
      : new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
    document.getElementById('drop').dispatchEvent(event)
  }, [kind, [...readFileSync(path(i))]])
  await send('drop', 1)
  await answered(page, golden(1))
  await send('paste', 2)
  await answered(page, golden(2))
  await page.context().close()
})

test('the page: a bad file gives one line, and the next picture an answer', async () => {
  const page = await open()
  await ready(page)
  const whole = readFileSync(`${BUNDLE}/golden/${goldens[0].file}`)
  for (const [name, mimeType, buffer, expected] of [
    ['notes.txt', 'text/plain', Buffer.from('hello'), /^notes\.txt: not a picture/],
    ['cut.png', 'image/png', whole.subarray(0, whole.length / 2), /damaged/],
    ['huge.png', 'image/png', png(60000, 60000, 8, 2), /too large/],
  ]) {
    await page.setInputFiles('#file', { name, mimeType, buffer })
    await page.waitForFunction(() => document.getElementById('error').textContent)
    assert.match(await text(page, 'error'), expected)
    assert.equal(await page.locator('#top').isVisible(), false)
  }
  await page.setInputFiles('#file', `${BUNDLE}/golden/${goldens[0].file}`)
  await answered(page, goldens[0])
  await page.context().close()
})

test('the page: no bundle, or one that it cannot read', async () => {
  for (const [name, answer, expected] of [
    ['bundle.json', { status: 404 }, /there is no bundle/],
    ['bundle.json', { body: '<!doctype html>' }, /not JSON/],
    ['bundle.json', { json: { ...facts, format: 'other/2' } }, /format other\/2/],
    ['pixels.onnx', { status: 404 }, /no pixels\.onnx: export it again/],
  ]) {
    const context = await browser.newContext({ serviceWorkers: 'block' })
    await context.route('**/bundle/' + name, route => route.fulfill(answer))
    const page = await context.newPage()
    await page.goto(site.url)
    await page.waitForFunction(() => document.getElementById('error').textContent)
    assert.match(await text(page, 'error'), expected)
    await context.close()
  }
})

test('the page: the camera', async () => {
  const page = await open('', { permissions: ['camera'] })
  await ready(page)
  await page.click('#camera')
  await page.click('#shoot')
  await page.waitForFunction(() => / ms$/.test(document.getElementById('detail').textContent))
  assert.equal(await text(page, 'error'), '')
  assert.equal(await page.locator('#video').isVisible(), false)
  await page.context().close()
})

test('the page: the keyboard is enough', async () => {
  const page = await open()
  await ready(page)
  const chooser = page.waitForEvent('filechooser') // early: the browser must know before the key is pressed
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement.id), 'file')
  const outline = await page.locator('label[for=file]').evaluate(label => getComputedStyle(label).outlineStyle)
  assert.equal(outline, 'solid')
  await page.keyboard.press('Enter')
  await (await chooser).setFiles(`${BUNDLE}/golden/${goldens[0].file}`)
  await answered(page, goldens[0])
  await page.context().close()
})

test('the page: works offline once loaded', async () => {
  const server = await serve({ '/bundle': BUNDLE })
  const page = await open('', {}, server.url)
  await ready(page)
  await page.waitForFunction(async () => await caches.match('bundle/pixels.onnx')) // written to the disk
  await page.context().setOffline(true)
  server.close()
  await page.reload()
  await ready(page)
  await page.setInputFiles('#file', `${BUNDLE}/golden/${goldens[0].file}`)
  await answered(page, goldens[0])
  await page.context().close()
})

test('the page: accessible (axe), light and dark, and no wider than 320 pixels', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await open('', { colorScheme, bypassCSP: true, viewport: { width: 320, height: 640 } })
    await ready(page)
    for (const state of ['ready', 'answered', 'refused']) {
      if (state !== 'ready') {
        const file = state === 'refused' ? { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('x') }
          : `${BUNDLE}/golden/${goldens[0].file}`
        await page.setInputFiles('#file', file)
        await (state === 'refused' ? page.waitForSelector('#error:not(:empty)') : answered(page, goldens[0]))
      }
      await page.addScriptTag({ path: 'node_modules/axe-core/axe.min.js' })
      const { violations } = await page.evaluate(() => axe.run())
      assert.deepEqual(violations.map(v => `${v.id}: ${v.nodes[0].html}`), [], `${colorScheme}, ${state}`)
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 320)
    }
    await page.context().close()
  }
})
