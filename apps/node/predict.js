#!/usr/bin/env node
// The command line around model.js and picture.js.
import { existsSync, realpathSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Model, Refusal } from './model.js';
import { decode, encode } from './picture.js';

const HELP = `usage: node predict.js [options] photo.jpg [more.png ...]

Answers about images (JPEG, PNG, WebP) from a fastai_deploy bundle.

  --bundle DIR         the bundle (otherwise: bundle beside this program, or in the working directory)
  --json               one JSON object a line
  -o, --output FOLDER  save the masks or images there, as NAME.png
  --original-size      masks at the size of the image; 255: not looked at
  --overwrite          replace files in FOLDER
  --max-pixels N       refuse images of more pixels (otherwise: the bundle's limit; up to 500000000)
  --decode FOLDER      no answer: write the decoded images there, as NAME.ppm
  --help               this text`;

const OPTIONS = {
  bundle: { type: 'string' },
  json: { type: 'boolean' },
  output: { type: 'string', short: 'o' },
  'original-size': { type: 'boolean' },
  overwrite: { type: 'boolean' },
  'max-pixels': { type: 'string' },
  decode: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
};

// ---------------------------------------------------------------- what is printed

// What could move a terminal's cursor, change its colours or turn its letters around.
const CONTROLS = /[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;
const hex = (c, digits) => c.charCodeAt(0).toString(16).padStart(digits, '0');

/** Text for a terminal: control characters as \x1b, \u202e … */
const plain = (text) => text.replace(CONTROLS, (c) => (c < '\u0100' ? `\\x${hex(c, 2)}` : `\\u${hex(c, 4)}`));

/** A value as JSON, in which no control character stands as it is. */
const json = (value) => JSON.stringify(value).replace(CONTROLS, (c) => `\\u${hex(c, 4)}`);

const say = (message) => console.error(plain(`predict: ${message}`));

/** Why something failed; of what a library wrote, the first line. */
const reason = (error) => (error instanceof Refusal ? error.message : error.message.split('\n')[0]);

/** A float32 as the shortest decimal number that is the same float32. */
function number(x) {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(x.toPrecision(digits));
    if (Math.fround(short) === x) return short;
  }
  return Number(x.toPrecision(9));
}

const percent = (x) => `${(100 * x).toFixed(1)}%`;

/** An answer as a line for a person. */
function text({ top, points, shares, image, width, height, values }) {
  if (top) return top.map(({ label, prob }) => `${label} ${percent(prob)}`).join(', ');
  if (points) return points.map(([x, y]) => `(${x.toFixed(1)}, ${y.toFixed(1)})`).join(' ');
  if (shares) return shares.map(({ label, share }) => `${label} ${percent(share)}`).join(', ');
  if (image) return `an image of ${width}x${height}`;
  return Array.from(values, (v) => Number(v.toPrecision(4))).join(', ');
}

/** An answer as the members of a JSON object: [name, text] of each. */
function members({ label, index, prob, labels, top, points, shares, image, width, height, values }) {
  const object = (pairs) => `{${pairs.map(([name, value]) => `${json(name)}:${value}`).join(',')}}`; // keeps the order
  const short = top?.map((t) => ({ label: t.label, prob: number(t.prob) }));
  const size = [['height', height], ['width', width]];
  if (label !== undefined) return [['label', json(label)], ['index', index], ['prob', number(prob)], ['top', json(short)]];
  if (labels) return [['labels', json(labels)], ['top', json(short)]];
  if (points) return [['points', json(points.map((p) => p.map(number)))]];
  if (shares) return [...size, ['shares', object(shares.map((s) => [s.label, s.share]))]];
  if (image) return size;
  return [['values', json(Array.from(values, number))]];
}

/** An answer as a line for a program. */
function jsonLine(file, answer, saved) {
  const all = [['path', json(file)], ...members(answer), ...(saved ? [['output', json(saved)]] : [])];
  return `{${all.map(([name, value]) => `"${name}":${value}`).join(',')}}`;
}

// ---------------------------------------------------------------- what is saved

/** Refuse options that do not go with the bundle. */
function checkOptions({ output, 'original-size': original }, task) {
  if (output && !['segmentation', 'image_to_image'].includes(task)) {
    throw new Refusal(`--output is for masks and images, and this bundle is for ${task}`);
  }
  if (task === 'image_to_image' && !output) {
    throw new Refusal('this bundle answers with images: say where they go, --output FOLDER');
  }
  if (original && !(output && task === 'segmentation')) {
    throw new Refusal('--original-size is for masks that are saved: segmentation, with --output FOLDER');
  }
}

/** Which file each answer becomes. */
function places(files, folder, overwrite) {
  const real = (file) => (existsSync(file) ? realpathSync(file) : path.resolve(file));
  const inputs = new Set(files.map(real));
  const taken = new Map();
  return files.map((file) => {
    const to = path.join(folder, `${path.parse(file).name}.png`);
    const other = taken.get(to.toLowerCase()) ?? file;
    taken.set(to.toLowerCase(), other);
    if (real(other) !== real(file)) {
      throw new Refusal(`${other} and ${file} would both become ${to}: run them apart, into a folder each`);
    }
    if (inputs.has(real(to))) throw new Refusal(`${to} is one of the images: choose another folder`);
    if (existsSync(to) && !overwrite) throw new Refusal(`${to} is there already: --overwrite, or another folder`);
    return to;
  });
}

/** Write a file whole or not at all. */
async function write(to, bytes) {
  const fresh = path.join(path.dirname(to), `.${path.basename(to)}.${process.pid}`);
  try {
    await mkdir(path.dirname(to), { recursive: true });
    await writeFile(fresh, bytes);
    await rename(fresh, to);
  } catch (error) {
    await rm(fresh, { force: true });
    throw new Refusal(`${to} cannot be written: ${reason(error)}`);
  }
}

/** Save a mask or an image as a PNG. */
async function save(model, answer, picture, to, original) {
  const { mask, image, width, height, channels = 1 } = answer;
  if (original) await write(to, await encode(model.originalMask(answer, picture), { ...picture, channels }));
  else await write(to, await encode(mask ?? image, { width, height, channels }));
}

async function writePpm(folder, file, { data, width, height }) {
  const to = path.join(folder, `${path.parse(file).name}.ppm`);
  await writeFile(to, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), data]));
}

// ---------------------------------------------------------------- the program

/** The number that --max-pixels says; NaN if it is none that is allowed. */
function pixels(word) {
  const n = /^[0-9]{1,9}$/.test(word) ? Number(word) : NaN;
  return n >= 1 && n <= 500_000_000 ? n : NaN;
}

const openModel = (folder, limits) => {
  const beside = path.join(import.meta.dirname, 'bundle');
  return Model.load(folder ?? (existsSync(beside) ? beside : 'bundle'), limits);
};

async function main() {
  let options, files;
  try {
    ({ values: options, positionals: files } = parseArgs({ options: OPTIONS, allowPositionals: true }));
  } catch (error) {
    say(`${error.message} (--help shows the options)`);
    return 2;
  }
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const word = options['max-pixels'];
  const maxPixels = word === undefined ? undefined : pixels(word);
  if (Number.isNaN(maxPixels)) {
    say(`--max-pixels takes a whole number from 1 to 500000000, not '${word}'`);
    return 2;
  }
  if (!files.length) {
    say('no images (--help shows the options)');
    return 2;
  }

  let model, to;
  try {
    if (options.decode) await mkdir(options.decode, { recursive: true });
    else {
      model = await openModel(options.bundle, { maxPixels });
      checkOptions(options, model.task);
      if (options.output) to = places(files, options.output, options.overwrite);
    }
  } catch (error) {
    say(reason(error));
    return 1;
  }

  let code = 0;
  for (const [i, file] of files.entries()) {
    try {
      const picture = await decode(file, model?.maxPixels ?? maxPixels);
      if (options.decode) {
        await writePpm(options.decode, file, picture);
        continue;
      }
      const answer = await model.predict(picture);
      if (to) await save(model, answer, picture, to[i], options['original-size']);
      const line = `${file}: ${text(answer)}${to ? ` → ${to[i]}` : ''}`;
      console.log(options.json ? jsonLine(file, answer, to?.[i]) : plain(line));
    } catch (error) { // the other images are still answered
      say(`${file}: ${reason(error)}`);
      code = 1;
    }
  }
  return code;
}

process.stdout.on('error', () => process.exit(1)); // the reader went away: predict.js … | head
process.exitCode = await main();
