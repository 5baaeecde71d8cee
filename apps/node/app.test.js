// node --test: the goldens of the bundle, and what is refused. BUNDLE=DIR in the environment: another bundle.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import sharp from 'sharp';
import { Model } from './model.js';
import { decode } from './picture.js';

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
  for (const { file, label, decided, probs } of goldens) {
    const picture = await decode(golden(file), model.maxPixels);
    const answer = await model.predict(picture);
    assert.equal(answer.label ?? answer.labels?.join('; ') ?? '', label, `${file}: label`);
    if (model.task === 'classification') assert.deepEqual([answer.index], decided, `${file}: decided`);
    if (model.task === 'multilabel') {
      assert.deepEqual(model.vocab.map((name) => answer.labels.includes(name)), decided, `${file}: decided`);
    }
    const want = model.task === 'points' ? await fromPixels(probs) : probs;
    assert.equal(answer.values.length, want.length, `${file}: how many numbers`);
    for (const [i, value] of answer.values.entries()) {
      const difference = Math.abs(value - want[i]) / Math.max(1, Math.abs(want[i])); // in proportion above 1
      assert.ok(difference <= 1e-5, `${file}: number ${i} is ${value}, fastai said ${want[i]}`);
      largest = Math.max(largest, difference);
    }
  }
  console.log(`${goldens.length} goldens of ${bundle}: largest difference ${largest.toExponential(1)}`);
});

/** Points are in pixels in golden.json, -1 to 1 in the net's output. */
async function fromPixels(points) {
  const spec = JSON.parse(await readFile(path.join(bundle, 'bundle.json'), 'utf8'));
  const [height, width] = spec.batch.findLast((op) => op.size)?.size ?? spec.input.size;
  return points.flat().map((p, i) => (2 * p) / (i % 2 ? height : width) - 1);
}

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

// ---------------------------------------------------------------- the bundle

test('what is no bundle is refused', needsBundle, async () => {
  const spec = JSON.parse(await readFile(path.join(bundle, 'bundle.json'), 'utf8'));
  const other = async (name, changes, files = {}) => {
    const to = path.join(dir, name);
    await mkdir(to);
    if (existsSync(path.join(bundle, 'vocab.txt'))) await copyFile(path.join(bundle, 'vocab.txt'), path.join(to, 'vocab.txt'));
    await writeFile(path.join(to, 'bundle.json'), typeof changes === 'string' ? changes : JSON.stringify({ ...spec, ...changes }));
    for (const [file, bytes] of Object.entries(files)) await writeFile(path.join(to, file), bytes);
    return to;
  };
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

  const masks = await other('masks', { task: 'segmentation' }, { 'pixels.onnx': await readFile(path.join(bundle, 'pixels.onnx')) });
  assert.match((await run('--bundle', masks, golden('0.png'))).err, /^predict: a bundle for segmentation: .*\n$/);
});

// ---------------------------------------------------------------- the command line

test('a bad picture is refused and the others are answered', needsBundle, async () => {
  const bad = await inDir('bad.jpg', 'hello');
  const { code, out, err } = await run('--bundle', bundle, '--json', golden('0.png'), bad, golden('1.png'));
  assert.equal(code, 1);
  assert.equal(err, `predict: ${bad}: not a JPEG, PNG or WebP picture, or its header is damaged\n`);
  assert.deepEqual(out.trim().split('\n').map((line) => JSON.parse(line).path), [golden('0.png'), golden('1.png')]);
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
