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

const TURNED = Buffer.from('ffe1002245786966000049492a0008000000010012010300010000000600000000000000', 'hex') // EXIF: orientation 6
const done = page => page.waitForFunction(() => / ms$/.test(document.getElementById('detail').textContent))

/** Wait for the answer to a golden and compare it with what fastai said. */
async function answered(page, golden) {
  await done(page)
  const status = await text(page, 'status')
  if (facts.task === 'classification') {
    assert.match(status, new RegExp(`^${golden.label} \\d+\\.\\d%$`))
    const n = Math.min(5, golden.probs.length)
    assert.equal(await page.locator('#top li').count(), n)
    const likeliest = (100 * Math.max(...golden.probs)).toFixed(1)
    assert.ok((await page.locator('#top li').first().textContent()).includes(likeliest + '%'))
  } else if (facts.task === 'multilabel') assert.equal(status, golden.label || 'None of the classes.')
  else if (facts.task !== 'regression') assert.ok(await page.locator('#drawn').isVisible() && status)
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
    const open = async file => decode(await (await fetch('/bundle/golden/' + file)).blob(), bundle.maxPixels)
    const found = []
    for (const { file, decided } of files) {
      const outputs = await run(bundle, await open(file), [...new Set([bundle.output, ...bundle.session.outputNames])])
      const answer = answerOf(bundle, outputs)
      const drawn = typeof decided === 'string' ? await open(decided) : {}
      found.push({ numbers: [...outputs[bundle.output].data], window: [...outputs.window?.data ?? []], width: drawn.width,
        answer: { ...answer, mask: [...answer.mask ?? []], image: [...answer.image ?? []] }, rgb: [...drawn.rgb ?? []] })
    }
    return found
  }, goldens)
  let [worst, other, size] = [0, 0, 0]
  found.forEach(({ numbers, answer, window, rgb, width }, i) => {
    const { file, probs, label, decided, stages } = goldens[i]
    const want = facts.task === 'points' ? stages.net : probs
    const step = (numbers.length - 1) / (want.length - 1) // of many numbers, 512 were kept
    const have = want.length === numbers.length ? numbers : want.map((_, k) => numbers[Math.trunc(k * step)])
    const off = Math.max(...have.map((x, k) => Math.abs(x - want[k]) / Math.max(1, Math.abs(want[k]))))
    worst = Math.max(worst, off)
    assert.ok(off <= TOLERANCE, `${file}: a number is off by ${off}`)
    if (facts.task === 'points') { // fastai's are in pixels of what the net sees
      const [h, w] = facts.batch.findLast(op => op.size)?.size ?? facts.input.size
      const [top, left, high, wide] = window
      answer.points.forEach(([x, y], k) => {
        const far = Math.hypot(x - left - probs[2 * k] * wide / w, y - top - probs[2 * k + 1] * high / h)
        assert.ok(far <= 1e-3, `${file}: point ${k} is off by ${far} pixels`)
      })
    }
    if (facts.task === 'segmentation') {
      assert.deepEqual([answer.width, answer.mask.length], [width, rgb.length / 3], file)
      answer.mask.forEach((index, k) => {
        if (index === rgb[3 * k]) return
        other++
        const [a, b] = [index, rgb[3 * k]].map(c => numbers[c * answer.mask.length + k])
        assert.ok(Math.abs(a - b) <= 2 * TOLERANCE, `${file}: pixel ${k} is ${index}, not ${rgb[3 * k]}`) // unless a tie
      })
      size += answer.mask.length
    }
    if (facts.task === 'image_to_image') {
      const grey = answer.channels === 1 ? 3 : 1
      assert.deepEqual([answer.width, answer.image.length * grey], [width, rgb.length], file)
      const levels = answer.image.map((v, k) => Math.abs(v - rgb[k * grey]))
      assert.ok(levels.every(d => d <= 1), `${file}: a level is off by more than 1`)
      other += levels.filter(d => d).length
      size += levels.length
    }
    if (facts.task === 'classification') assert.deepEqual([answer.label, answer.index], [label, decided[0]], file)
    if (facts.task === 'multilabel') assert.equal(answer.labels.join('; '), label, file)
  })
  t.diagnostic(`${found.length} goldens, largest difference ${worst.toExponential(1)}` + (size ? `, ${other} of ${size} values differ` : ''))
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
  const turned = Buffer.concat([jpeg.subarray(0, 2), TURNED, jpeg.subarray(2)])
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
    [Buffer.from('hello, this is text'), /not an image/],
    [whole.subarray(0, 20), /not an image/],
    [whole.subarray(0, whole.length / 2), /damaged/],
    [png(10001, 5000, 8, 2), /too large: 10001 x 5000, more than 50000000 pixels/], // told by the header alone
    [png(8, 8, 16, 0), /16-bit grey/],
  ]
  for (const [bytes, expected] of cases) {
    const { error } = await decoded(page, bytes, 'image/png', 50000000)
    assert.match(error, expected)
    assert.ok(!error.includes('\n'))
  }
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
    ['notes.txt', 'text/plain', Buffer.from('hello'), /^notes\.txt: not an image/],
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
    ['bundle.json', { json: { ...facts, task: facts.task === 'points' ? 'image_to_image' : 'points' } }, /no output .*: export it again/],
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

test('the page: a limit of pixels of one\'s own', async () => {
  for (const [most, expected] of [['60000000', /damaged/], ['500000001', /max_pixels must be .* from 1 to 500000000/]]) {
    const page = await open(`?max_pixels=${most}`)
    await page.setInputFiles('#file', { name: 'wide.png', mimeType: 'image/png', buffer: png(10001, 5000, 8, 2) })
    await page.waitForFunction(() => document.getElementById('error').textContent)
    assert.match(await text(page, 'error'), expected)
    await page.context().close()
  }
  const page = await open('blank')
  const refused = await page.evaluate(async () => {
    const { loadBundle } = await import('/core.js')
    return await Promise.all([0, 1.5, NaN].map(maxPixels => loadBundle('/bundle/', () => {}, { maxPixels }).catch(e => e.message)))
  })
  refused.forEach(error => assert.match(error, /from 1 to 500000000/))
  await page.context().close()
})

// ---- answers of every task, from a worker that only plays one ----

/** The page, with `answer` as the answer to any picture, and the place of `file` in it. */
async function played(answer, { vocab = [], width = 40, height = 24, file = white(width, height), ...options } = {}) {
  const context = await browser.newContext({ serviceWorkers: 'block', bypassCSP: true, ...options })
  await context.route('**/worker.js*', route => route.fulfill({ contentType: 'text/javascript', body: `
    const typed = (key, value) => ['mask', 'image'].includes(key) ? new Uint8Array(value) : value
    postMessage({ ready: { vocab: ${JSON.stringify(vocab)} } })
    onmessage = ({ data: { id } }) => postMessage({ id, width: ${width}, height: ${height}, ms: 1,
      answer: JSON.parse(${JSON.stringify(JSON.stringify(answer))}, typed) })` }))
  const page = await context.newPage()
  page.faults = []
  page.on('request', r => /evil/.test(r.url()) && page.faults.push(r.url()))
  page.on('pageerror', error => page.faults.push(error.message))
  page.on('dialog', dialog => { page.faults.push(dialog.message()); dialog.dismiss() })
  await page.goto(site.url)
  await page.setInputFiles('#file', { name: 'white.png', mimeType: 'image/png', buffer: file })
  await done(page)
  return page
}

const white = (width, height) => png(width, height, 8, 2, Buffer.alloc(height * (3 * width + 1), Buffer.from([0, ...Buffer.alloc(3 * width, 255)])))

/** The colours on the screen at some places (x, y) of a picture that is 40 pixels wide. */
async function drawn(page, places) {
  await page.locator('#under').evaluate(img => img.decode())
  const { rgb, width } = await decoded(page, await page.locator('#drawing').screenshot())
  return places.map(p => { const [x, y] = p.map(v => Math.round(v * width / 40)); return rgb.slice(3 * (y * width + x)).slice(0, 3) })
}

const axe = async page => {
  await page.addScriptTag({ path: 'node_modules/axe-core/axe.min.js' })
  const { violations } = await page.evaluate(() => axe.run())
  assert.deepEqual(violations.map(v => `${v.id}: ${v.nodes[0].html}`), [])
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 320)
}
const phone = { viewport: { width: 320, height: 640 } }

test('the page: points on the picture', async () => {
  const page = await played({ points: [[10, 6], [30.5, 20]] }, { ...phone, colorScheme: 'dark' })
  assert.deepEqual(await drawn(page, [[10, 6], [30.5, 20], [20, 12]]), [[13, 148, 136], [13, 148, 136], [255, 255, 255]])
  assert.equal(await text(page, 'status'), '2 points')
  assert.deepEqual(await page.locator('#top li').allTextContents(), ['1 (10.0, 6.0)', '2 (30.5, 20.0)'])
  await axe(page)
  assert.deepEqual(page.faults, [])
  await page.context().close()
})

test('the page: a mask in its place on the picture, with a legend', async () => {
  const shares = [{ label: 'sea', index: 1, share: 0.75 }, { label: 'boat', index: 0, share: 0.25 }]
  const mask = [1, 1, 1, 0] // of the right half, and 8 rows above the picture
  const answer = { shares, mask, width: 2, height: 2, window: { top: -8, left: 20, width: 20, height: 32 } }
  const page = await played(answer, { ...phone })
  const blend = c => c.map(v => Math.round(v + (255 - v) * (1 - 140 / 255)))
  const [left, above, below, corner] = await drawn(page, [[10, 12], [25, 4], [25, 20], [35, 20]])
  const legend = await page.locator('#top i').evaluateAll(all => all.map(i => getComputedStyle(i).backgroundColor.match(/\d+/g).map(Number)))
  const close = (a, b) => assert.ok(a.every((v, k) => Math.abs(v - b[k]) <= 2), `${a} for ${b}`)
  assert.deepEqual(left, [255, 255, 255])
  close(above, blend(legend[0]))
  close(below, blend(legend[0]))
  close(corner, blend(legend[1]))
  assert.equal(await text(page, 'status'), 'sea 75.0%, boat 25.0%')
  assert.deepEqual(await page.locator('#top li').allTextContents(), ['sea 75.0%', 'boat 25.0%'])
  await axe(page)
  assert.deepEqual(page.faults, [])
  await page.context().close()
})

test('the page: what is drawn on is not turned by EXIF', async () => {
  const blank = await open('blank')
  const jpeg = Buffer.from(await blank.evaluate(async () => {
    const canvas = new OffscreenCanvas(40, 24)
    const context = canvas.getContext('2d')
    context.fillStyle = 'white'
    context.fillRect(20, 0, 20, 24)
    return [...new Uint8Array(await (await canvas.convertToBlob({ type: 'image/jpeg' })).arrayBuffer())]
  }))
  await blank.context().close()
  const page = await played({ points: [[1, 1]] }, { file: Buffer.concat([jpeg.subarray(0, 2), TURNED, jpeg.subarray(2)]) })
  const [left, right] = await drawn(page, [[10, 20], [30, 20]])
  assert.ok(left[0] < 10 && right[0] > 245, `${left}, ${right}`)
  assert.equal(await text(page, 'status'), '(1.0, 1.0)')
  await page.context().close()
})

test('the page: the image that was made, to look at and to save', async () => {
  for (const channels of [3, 1]) {
    const image = Array.from({ length: 5 * 3 * channels }, (_, i) => (i * 37) % 256)
    const page = await played({ image, width: 5, height: 3, channels }, phone)
    const wanted = channels === 3 ? image : image.flatMap(v => [v, v, v])
    assert.equal(await page.locator('#under').isVisible(), false)
    const download = page.waitForEvent('download')
    await page.locator('#save').press('Enter')
    const saved = readFileSync(await (await download).path())
    assert.equal((await download).suggestedFilename(), 'white-answer.png')
    const blank = await open('blank')
    assert.deepEqual(await decoded(blank, saved), { rgb: wanted, width: 5, height: 3 })
    await blank.context().close()
    await axe(page)
    assert.deepEqual(page.faults, [])
    await page.context().close()
  }
})

test('the page: names are text, whatever is in them, and fit a phone', async () => {
  const names = ['<img src=http://evil.test/a.png onerror=alert(1)>', '<script>alert(2)</script>', 'abc\u202edef', 'bell \x07 \x1b[31m',
    '[a](http://evil.test)', 'a_very_long_class_name_without_any_space_'.repeat(4), 'many words '.repeat(20)]
  const shown = names.map(name => name.replace('\x07', '\\x07').replace('\x1b', '\\x1b'))
  const all = names.map((label, index) => ({ label, index, prob: 1 / names.length, share: 1 / names.length }))
  const mask = { mask: names.map((_, i) => i), width: names.length, height: 1, window: { top: 0, left: 0, width: 40, height: 24 } }
  for (const [answer, status] of [[{ ...all[0], top: all }, `${shown[0]} 14.3%`], [{ labels: names, top: all }, shown.join('; ')],
    [{ shares: all, ...mask }, shown.slice(0, 3).map(n => `${n} 14.3%`).join(', ')]]) {
    const page = await played(answer, { vocab: names, ...phone })
    assert.equal(await text(page, 'status'), status)
    assert.deepEqual(await page.locator('#top li bdi').allTextContents(), shown)
    await page.click('#classes summary')
    assert.equal(await page.locator('#classes p').textContent(), shown.join(', '))
    await axe(page)
    assert.deepEqual(page.faults, [])
    await page.context().close()
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
