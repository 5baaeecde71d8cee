// node --test: the goldens of the bundle, and what is refused. BUNDLE=DIR in the environment: another bundle.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import sharp from 'sharp';
import { Model } from './model.js';
import { decode, encode } from './picture.js';

const here = import.meta.dirname;
const bundle = path.resolve(process.env.BUNDLE ?? path.join(here, 'bundle'));
const found = existsSync(path.join(bundle, 'bundle.json'));
const needsBundle = { skip: !found && 'no bundle' };
const golden = (name) => path.join(bundle, 'golden', name);

let dir;
before(async () => { dir = await mkdtemp(path.join(os.tmpdir(), 'fastai deploy é')); });
after(() => rm(dir, { recursive: true }));

const inDir = async (name, bytes) => {
  const file = path.join(dir, name);
  await writeFile(file, bytes);
  return file;
};

const run = (...args) => new Promise((resolve) => {
  execFile(process.execPath, [path.join(here, 'predict.js'), ...args], (error, out, err) => {
    resolve({ code: error ? error.code : 0, out, err });
  });
});

test('there is a bundle', () => {
  assert.ok(found, `no bundle in ${bundle}: put one there, or say BUNDLE=DIR`);
});

// ---------------------------------------------------------------- the answers

test('the goldens: what fastai answered', needsBundle, async () => {
  const model = await Model.load(bundle);
  const goldens = JSON.parse(await readFile(golden('golden.json'), 'utf8'));
  assert.ok(goldens.length > 0, 'golden.json is empty');
  let largest = 0;
  let others = 0;
  for (const { file, label, decided, probs } of goldens) {
    const picture = await decode(golden(file), model.maxPixels);
    const answer = await model.predict(picture);
    assert.equal(answer.label ?? answer.labels?.join('; ') ?? '', label, `${file}: label`);
    if (model.task === 'classification') assert.deepEqual([answer.index], decided, `${file}: decided`);
    if (model.task === 'multilabel') {
      assert.deepEqual(model.vocab.map((name) => answer.labels.includes(name)), decided, `${file}: decided`);
    }
    if (model.task === 'points') checkPlaces(answer, probs, await netSize(), file);
    if (answer.mask || answer.image) others += await checkPixels(answer, golden(decided), file);
    const want = model.task === 'points' ? fromPixels(probs, await netSize()) : probs;
    const values = answer.dims.length > 1 ? sample(answer.values) : answer.values;
    const most = answer.image ? 1e-4 : 1e-5;
    assert.equal(values.length, want.length, `${file}: how many numbers`);
    for (const [i, value] of values.entries()) {
      const difference = Math.abs(value - want[i]) / Math.max(1, Math.abs(want[i])); // in proportion above 1
      assert.ok(difference <= most, `${file}: number ${i} is ${value}, fastai said ${want[i]}`);
      largest = Math.max(largest, difference);
    }
  }
  const pixels = ['segmentation', 'image_to_image'].includes(model.task) ? `, ${others} pixels differ` : '';
  console.log(`${goldens.length} goldens of ${bundle}: largest difference ${largest.toExponential(1)}${pixels}`);
});

/** [height, width] of what the net sees. */
async function netSize() {
  const spec = JSON.parse(await readFile(path.join(bundle, 'bundle.json'), 'utf8'));
  return spec.batch.findLast((op) => op.size)?.size ?? spec.input.size;
}

/** Points are in pixels of what the net sees in golden.json, -1 to 1 in the net's output. */
function fromPixels(points, [height, width]) {
  return points.flat().map((p, i) => (2 * p) / (i % 2 ? height : width) - 1);
}

/** Points in pixels of the image itself. */
function checkPlaces({ points, window: [top, left, tall, wide] }, said, [height, width], file) {
  for (const [i, p] of said.flat().entries()) {
    const want = i % 2 ? top + (p / height) * tall : left + (p / width) * wide;
    const got = points[Math.floor(i / 2)][i % 2];
    assert.ok(Math.abs(got - want) <= 1e-3, `${file}: point ${Math.floor(i / 2)}: ${got}, fastai said ${want}`);
  }
}

/** What golden.json keeps of a larger output: 512 numbers, evenly spread, first and last included. */
function sample(values, n = 512) {
  if (values.length <= n) return values;
  const step = (values.length - 1) / (n - 1);
  return Float32Array.from({ length: n }, (_, i) => values[i === n - 1 ? values.length - 1 : Math.floor(i * step)]);
}

/** A mask or an image against fastai's: how many pixels differ. They may where float32 cannot tell. */
async function checkPixels({ mask, image, width, height, channels, values }, to, file) {
  const want = await decode(to);
  assert.deepEqual([width, height], [want.width, want.height], `${file}: size`);
  let others = 0;
  (mask ?? image).forEach((got, i) => {
    const said = want.data[mask || channels === 1 ? 3 * i : i];
    if (got === said) return;
    others++;
    const prob = (c) => values[c * width * height + i];
    if (mask) assert.ok(Math.abs(prob(got) - prob(said)) <= 1e-4, `${file}: pixel ${i} is ${got}, fastai said ${said}`);
    else assert.ok(Math.abs(got - said) <= 1, `${file}: level ${i} is ${got}, fastai said ${said}`);
  });
  assert.ok(others <= width * height / 1000, `${file}: ${others} pixels differ`);
  return others;
}

test('a mask at the size of its image', () => {
  const model = Object.assign(new Model(), { vocab: ['a', 'b'] });
  const answer = { mask: Uint8Array.of(0, 1, 1, 0), height: 2, width: 2, window: [-1, 1, 3, 2] };
  const mask = model.originalMask(answer, { height: 2, width: 4 });
  assert.deepEqual([...mask], [255, 1, 0, 255, 255, 1, 0, 255]);
  model.vocab = Array.from({ length: 256 }, String);
  assert.throws(() => model.originalMask(answer, { height: 2, width: 4 }), /class 255/);
});

// ---------------------------------------------------------------- the decoder

/** Red, green and blue ramps, 40x30. */
const ramps = Uint8Array.from({ length: 40 * 30 * 3 }, (_, i) => (Math.floor(i / 3) * [1, 5, 11][i % 3]) % 256);
const source = () => sharp(ramps, { raw: { width: 40, height: 30, channels: 3 } });

test('a PNG gives its pixels: plain, interlaced, with an alpha channel, turned by EXIF', async () => {
  const alpha = Uint8Array.from({ length: 40 * 30 }, (_, i) => i % 256);
  const pngs = {
    plain: source().png(),
    interlaced: source().png({ progressive: true }),
    alpha: source().joinChannel(alpha, { raw: { width: 40, height: 30, channels: 1 } }).png(),
    'turned ü': source().withMetadata({ orientation: 6 }).png(),
  };
  for (const [name, png] of Object.entries(pngs)) {
    const { data, width, height } = await decode(await inDir(`${name}.png`, await png.toBuffer()));
    assert.deepEqual([width, height], [40, 30], name);
    assert.ok(Buffer.from(ramps).equals(data), `${name}: other pixels`);
    assert.ok(data.equals((await decode(await png.toBuffer())).data), `${name}: other pixels from bytes`);
  }
});

test('grey is R=G=B', async () => {
  for (const kind of ['png', 'jpeg']) {
    const grey = await source().toColourspace('b-w').toFormat(kind).toBuffer();
    const { data } = await decode(await inDir(`grey.${kind}`, grey));
    assert.equal(data.length, ramps.length);
    assert.ok(data.every((v, i) => v === data[i - (i % 3)]));
  }
});

test('a colour profile is ignored', async () => {
  const png = await source().withIccProfile('p3').png().toBuffer(); // its numbers are those of Display P3
  const { data } = await decode(await inDir('p3.png', png));
  const managed = await sharp(png).toColourspace('srgb').raw().toBuffer();
  assert.ok(data.some((v, i) => Math.abs(v - managed[i]) > 5));
});

test('what is no picture is refused in one line', async () => {
  const jpeg = await source().jpeg().toBuffer();
  const png = await source().png().toBuffer();
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>';
  const cases = [
    [path.join(dir, 'nothing.png'), /no such file/],
    [dir, /a folder/],
    [await inDir('empty.jpg', ''), /an empty file/],
    [await inDir('text.jpg', 'hello'), /not a JPEG/],
    [await inDir('drawing.svg', svg), /not supported: svg/],
    [await inDir('half.jpg', jpeg.subarray(0, jpeg.length / 2)), /truncated/],
    [await inDir('no end.jpg', jpeg.subarray(0, -2)), /truncated/],
    [await inDir('half.png', png.subarray(0, png.length / 2)), /truncated/],
    [await inDir('cmyk.jpg', await source().toColourspace('cmyk').jpeg().toBuffer()), /CMYK/],
    [await inDir('grey16.png', await source().toColourspace('grey16').png().toBuffer()), /16-bit/],
    [await inDir('picture.gif', await source().gif().toBuffer()), /not supported: gif/],
  ];
  for (const [file, message] of cases) {
    await assert.rejects(decode(file), (error) => message.test(error.message) && !error.message.includes('\n'), file);
  }
  const file = await inDir('large.png', png);
  await assert.rejects(decode(file, 40 * 30 - 1), /40x30 is more than 1199 pixels/);
  await decode(file, 40 * 30);
});

test('encode writes what decode reads', async () => {
  for (const channels of [1, 3]) {
    const data = ramps.subarray(0, 40 * 30 * channels);
    const png = await encode(data, { width: 40, height: 30, channels });
    const back = await decode(png);
    assert.deepEqual(Buffer.from(back.data.filter((_, i) => channels === 3 || i % 3 === 0)), Buffer.from(data));
    assert.equal((await sharp(png).metadata()).channels, channels);
  }
});

// ---------------------------------------------------------------- the bundle

const readSpec = async () => JSON.parse(await readFile(path.join(bundle, 'bundle.json'), 'utf8'));
const graph = async () => ({ 'pixels.onnx': await readFile(path.join(bundle, 'pixels.onnx')) });

/** A folder with the bundle's vocab.txt, its bundle.json with some `changes`, and `files`. */
async function other(name, changes, files = {}) {
  const to = path.join(dir, name);
  await mkdir(to);
  if (existsSync(path.join(bundle, 'vocab.txt'))) await copyFile(path.join(bundle, 'vocab.txt'), path.join(to, 'vocab.txt'));
  const json = typeof changes === 'string' ? changes : JSON.stringify({ ...await readSpec(), ...changes });
  for (const [file, bytes] of Object.entries({ 'bundle.json': json, ...files })) await writeFile(path.join(to, file), bytes);
  return to;
}

/** Images need a place to go to. */
const place = async () => ((await readSpec()).task === 'image_to_image' ? ['-o', path.join(dir, 'out'), '--overwrite'] : []);

test('what is no bundle is refused', needsBundle, async () => {
  const cases = [
    [path.join(dir, 'nowhere'), /not the folder of a fastai_deploy bundle/],
    [await other('no json', '{'), /not JSON/],
    [await other('another format', { format: 'fastai_deploy/9' }), /format fastai_deploy\/9/],
    [await other('no graph', {}), /no pixels.onnx there: export the model again/],
    [await other('broken graph', {}, { 'pixels.onnx': 'rubbish' }), /pixels.onnx/],
  ];
  for (const [folder, message] of cases) await assert.rejects(Model.load(folder), message);
  const { code, err } = await run('--bundle', path.join(dir, 'no graph'), golden('0.png'));
  assert.equal(code, 1);
  assert.match(err, /^predict: .*no pixels.onnx there.*\n$/);

  const task = (await readSpec()).task === 'points' ? 'image_to_image' : 'points'; // of a bundle from before
  const old = await other('old', { task }, await graph());
  assert.match((await run('--bundle', old, golden('0.png'))).err, /^predict: .* has no output .*: export the bundle again\n$/);
});

test('a limit of pixels: the bundle\'s, or one\'s own', needsBundle, async () => {
  const small = await other('small', { input: { ...(await readSpec()).input, max_pixels: 100 } }, await graph());
  const ask = async (...more) => run('--bundle', small, ...await place(), ...more, golden('0.png'));
  assert.match((await ask()).err, /more than 100 pixels\n$/);
  assert.equal((await ask('--max-pixels', '10000000')).code, 0);
  assert.match((await ask('--max-pixels', '10')).err, /more than 10 pixels\n$/);
  assert.match((await run('--decode', dir, '--max-pixels', '10', golden('0.png'))).err, /more than 10 pixels\n$/);
  for (const n of ['0', '-1', '1.5', 'many', '500000001']) {
    const { code, err } = await run('--bundle', bundle, `--max-pixels=${n}`, golden('0.png'));
    assert.equal(code, 2, err);
    assert.match(err, /^predict: --max-pixels takes a whole number from 1 to 500000000, [^\n]*\n$/);
  }
  for (const maxPixels of [0, 1.5, 500_000_001]) await assert.rejects(Model.load(bundle, { maxPixels }), /maxPixels/);
});

// ---------------------------------------------------------------- the command line

test('a bad picture is refused and the others are answered', needsBundle, async () => {
  const bad = await inDir('bad.jpg', 'hello');
  const { code, out, err } = await run('--bundle', bundle, '--json', ...await place(), golden('0.png'), bad, golden('1.png'));
  assert.equal(code, 1);
  assert.equal(err, `predict: ${bad}: not a JPEG, PNG or WebP picture, or its header is damaged\n`);
  assert.deepEqual(out.trim().split('\n').map((line) => JSON.parse(line).path), [golden('0.png'), golden('1.png')]);
});

test('masks and images are saved, and replace nothing unasked', needsBundle, async () => {
  const { task } = await readSpec();
  const out = path.join(dir, 'saved');
  const ask = (...more) => run('--bundle', bundle, '-o', out, ...more, golden('0.png'));
  if (!['segmentation', 'image_to_image'].includes(task)) {
    assert.match((await ask()).err, /^predict: --output is for masks and images, [^\n]*\n$/);
    return;
  }
  const saved = path.join(out, '0.png');
  const model = await Model.load(bundle);
  const photo = await decode(golden('0.png'));
  const answer = await model.predict(photo);
  const { channels = 1 } = answer;
  const pixels = async () => (await decode(saved)).data.filter((_, i) => channels === 3 || i % 3 === 0);
  const line = JSON.parse((await ask('--json')).out);
  assert.deepEqual([line.height, line.width, line.output], [answer.height, answer.width, saved]);
  assert.ok(Buffer.from(await pixels()).equals(Buffer.from(answer.mask ?? answer.image)));
  const again = await ask();
  assert.deepEqual([again.code, again.out], [1, '']);
  assert.match(again.err, /0\.png is there already: --overwrite/);
  assert.match((await ask('--overwrite')).out, / → .*0\.png\n$/);
  const original = await ask('--overwrite', '--original-size');
  if (task === 'segmentation') {
    assert.equal(original.code, 0);
    assert.ok(Buffer.from(await pixels()).equals(Buffer.from(model.originalMask(answer, photo))));
  } else assert.match(original.err, /^predict: --original-size is for masks/);
  assert.deepEqual(await readdir(out), ['0.png']);

  await mkdir(path.join(dir, 'more'));
  await copyFile(golden('0.png'), path.join(dir, 'more', '0.PNG'));
  assert.match((await ask('--overwrite', path.join(dir, 'more', '0.PNG'))).err, /would both become/);
  assert.match((await run('--bundle', bundle, '-o', path.join(bundle, 'golden'), '--overwrite', golden('0.png'))).err, /is one of the images/);
  await rm(saved);
  await mkdir(saved); // a folder in the way: nothing half-written stays
  assert.match((await ask('--overwrite')).err, /0\.png cannot be written/);
  assert.deepEqual(await readdir(out), ['0.png']);
});

test('no control character reaches a terminal', needsBundle, async () => {
  const nasty = 'a\x1b[31m\x9b\u202e\r';
  const shown = 'a\\x1b[31m\\x9b\\u202e\\x0d';
  const controls = /[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;
  const { code, err } = await run('--bundle', bundle, ...await place(), `${nasty}.jpg`);
  assert.deepEqual([code, err], [1, `predict: ${shown}.jpg: no such file\n`]);
  if (!existsSync(path.join(bundle, 'vocab.txt'))) return;
  const n = (await readFile(path.join(bundle, 'vocab.txt'), 'utf8')).trimEnd().split('\n').length;
  const labels = Array.from({ length: n }, (_, i) => `${nasty}${i}`);
  const labelled = await other('labels', {}, { ...await graph(), 'vocab.txt': `${labels.join('\n')}\n` });
  const text = (await run('--bundle', labelled, golden('0.png'))).out;
  assert.ok(text.includes(shown) && !controls.test(text), JSON.stringify(text));
  const json = (await run('--bundle', labelled, '--json', golden('0.png'))).out;
  assert.ok(!controls.test(json));
  const { top, shares } = JSON.parse(json);
  for (const label of top?.map((t) => t.label) ?? Object.keys(shares)) assert.ok(labels.includes(label));
});

test('--decode writes a PPM', async () => {
  const file = await inDir('some picture é.png', await source().png().toBuffer());
  assert.deepEqual(await run('--decode', path.join(dir, 'ppm'), file), { code: 0, out: '', err: '' });
  const ppm = await readFile(path.join(dir, 'ppm', 'some picture é.ppm'));
  assert.ok(ppm.equals(Buffer.concat([Buffer.from('P6\n40 30\n255\n'), ramps])));
});

test('wrong usage ends with code 2, --help with 0', async () => {
  for (const args of [[], ['--rubbish', 'a.png'], ['a.png', '--bundle']]) {
    const { code, err } = await run(...args);
    assert.equal(code, 2, args.join(' '));
    assert.match(err, /^predict: [^\n]*\n$/);
  }
  const { code, out } = await run('--help');
  assert.equal(code, 0);
  assert.match(out, /^usage: /);
});
