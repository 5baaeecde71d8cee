#!/usr/bin/env node
// The command line around model.js and picture.js.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Model, Refusal } from './model.js';
import { decode } from './picture.js';

const HELP = `usage: node predict.js [options] photo.jpg [more.png ...]

Answers about pictures (JPEG, PNG, WebP) from a fastai_deploy bundle.

  --bundle DIR     the bundle (otherwise: bundle beside this program, or in the working directory)
  --json           one JSON object a line
  --decode FOLDER  no answer: write the decoded pictures there, as NAME.ppm
  --help           this text`;

const OPTIONS = {
  bundle: { type: 'string' },
  json: { type: 'boolean' },
  decode: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
};

const say = (message) => console.error(`predict: ${message}`);

/** A float32 as the shortest decimal number that is the same float32. */
function number(x) {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(x.toPrecision(digits));
    if (Math.fround(short) === x) return short;
  }
  return Number(x.toPrecision(9));
}

/** An answer as a line for a person. */
function text({ top, values }) {
  if (top) return top.map(({ label, prob }) => `${label} ${(100 * prob).toFixed(1)}%`).join(', ');
  return Array.from(values, (v) => Number(v.toPrecision(4))).join(', ');
}

/** An answer as a line for a program. */
function json(file, { label, index, prob, labels, top, values }) {
  const short = top?.map((t) => ({ label: t.label, prob: number(t.prob) }));
  if (label !== undefined) return { path: file, label, index, prob: number(prob), top: short };
  if (labels) return { path: file, labels, top: short };
  return { path: file, values: Array.from(values, number) };
}

async function openModel(folder) {
  const beside = path.join(import.meta.dirname, 'bundle');
  const model = await Model.load(folder ?? (existsSync(beside) ? beside : 'bundle'));
  if (['segmentation', 'image_to_image'].includes(model.task)) {
    throw new Refusal(`a bundle for ${model.task}: this program shows classes and numbers; predict() in model.js gives the raw output`);
  }
  return model;
}

async function writePpm(folder, file, { data, width, height }) {
  const to = path.join(folder, `${path.parse(file).name}.ppm`);
  await writeFile(to, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), data]));
}

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
  if (!files.length) {
    say('no pictures (--help shows the options)');
    return 2;
  }

  let model;
  try {
    if (options.decode) await mkdir(options.decode, { recursive: true });
    else model = await openModel(options.bundle);
  } catch (error) {
    say(firstLine(error));
    return 1;
  }

  let code = 0;
  for (const file of files) {
    try {
      const picture = await decode(file, model?.maxPixels);
      if (options.decode) {
        await writePpm(options.decode, file, picture);
        continue;
      }
      const answer = await model.predict(picture);
      console.log(options.json ? JSON.stringify(json(file, answer)) : `${file}: ${text(answer)}`);
    } catch (error) { // the other pictures are still answered
      say(`${file}: ${firstLine(error)}`);
      code = 1;
    }
  }
  return code;
}

const firstLine = (error) => error.message.split('\n')[0];

process.stdout.on('error', () => process.exit(1)); // the reader went away: predict.js … | head
process.exitCode = await main();
