// node compare.mjs DIR OUT: decode and predict each picture of DIR in a headless Chromium.
// Writes OUT/NAME.ppm (what the decoder gave) and OUT/answers.jsonl (a line per picture).
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { basename, extname, join } from 'node:path'
import { launch, serve } from './browser.mjs'

const [dir, out] = process.argv.slice(2)
if (!out || process.argv.length > 4) {
  console.error('usage: node compare.mjs DIR OUT   (BUNDLE=dir for another bundle than bundle/)')
  process.exit(2)
}
mkdirSync(out, { recursive: true })

const post = async (request, response) => { // the page sends the decoded bytes here
  const parts = []
  for await (const part of request) parts.push(part)
  const name = decodeURIComponent(request.url.slice(1))
  writeFileSync(join(out, basename(name, extname(name)) + '.ppm'), Buffer.concat(parts))
  response.end()
}
const site = await serve({ '/bundle': process.env.BUNDLE ?? 'bundle', '/pictures': dir }, post)
const browser = await launch()
const page = await browser.newPage()
await page.goto(site.url + 'blank')
const fail = await page.evaluate(async () => {
  window.core = await import('/core.js')
  try { window.bundle = await core.loadBundle() } catch (error) { return error.message }
})

const lines = []
let bad = 0
for (const name of fail ? [] : readdirSync(dir).sort()) {
  const line = await page.evaluate(async name => {
    try {
      const url = encodeURIComponent(name)
      const response = await fetch('/pictures/' + url)
      if (!response.ok) throw new Error('cannot be read')
      const { rgb, width, height } = await core.decode(await response.blob(), bundle.maxPixels)
      await fetch('/' + url, { method: 'POST', body: new Blob([`P6\n${width} ${height}\n255\n`, rgb]) })
      const { mask, image, channels, window, shares, ...answer } = await core.predict(bundle, { rgb, width, height })
      if (shares) answer.shares = Object.fromEntries(shares.map(c => [c.label, c.share]))
      const short = (_, value) => typeof value === 'number' ? Number(value.toPrecision(9)) : value // a float32's digits
      if (answer.top) answer.top = answer.top.map(({ label, prob }) => ({ label, prob }))
      return { answer: JSON.stringify({ path: name, ...answer }, short) }
    } catch (error) { return { error: error.message.split('\n')[0] } }
  }, name)
  if (line.error) { bad++; console.error(`web: ${name}: ${line.error}`) } else lines.push(line.answer + '\n')
}
if (fail) console.error(`web: ${fail}`)
else writeFileSync(join(out, 'answers.jsonl'), lines.join(''))
await browser.close()
site.close()
process.exitCode = fail || bad ? 1 : 0
