// The core: a bundle, and its answer about a picture. It knows nothing of files of pictures: see picture.js.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';

// ONNX Runtime reports usage to its makers unless this is set before it is loaded.
process.env.ORT_DISABLE_TELEMETRY ??= '1';
const ort = await import('onnxruntime-node');

const FORMAT = 'fastai_deploy/1';
const TOP = 5;
const LARGEST = 500_000_000; // pixels: no limit of one's own is higher
const OUTSIDE = 255; // the class number where the net did not look

// What these tasks answer is decoded in the graph: the name of that output.
const DECODED = { points: 'places', segmentation: 'mask', image_to_image: 'levels' };

/** Something that a user did, or has: told in one line, without a stack trace. */
export class Refusal extends Error {}

export class Model {
  /** Open the bundle in `folder`; `maxPixels` is a limit of your own, up to 500,000,000, in place of the bundle's.
   *  What bundle.json and vocab.txt say is also in the ONNX file, but ONNX Runtime shows a JavaScript program
   *  no metadata. */
  static async load(folder, { maxPixels } = {}) {
    const spec = await readSpec(folder);
    if (maxPixels !== undefined && !(Number.isInteger(maxPixels) && maxPixels >= 1 && maxPixels <= LARGEST)) {
      throw new Refusal(`maxPixels must be a whole number from 1 to ${LARGEST}, not ${maxPixels}`);
    }
    const model = new Model();
    model.task = spec.task;
    model.maxPixels = maxPixels ?? spec.input.max_pixels; // larger images are refused
    model.output = spec.output.name;
    model.decoded = DECODED[spec.task];
    model.threshold = Math.fround(spec.output.threshold ?? 0); // of a multilabel net: a label holds above it
    model.vocab = await readVocab(folder, spec); // class names, in output order; empty if the answer is no class
    model.session = await openSession(folder);
    const missing = model.outputs().find((name) => !model.session.outputNames.includes(name));
    if (missing) throw new Refusal(`${folder}: pixels.onnx has no output ${missing}: export the bundle again`);
    return model;
  }

  /** The outputs that are asked for; there may be others. */
  outputs() {
    return [this.output, ...(this.decoded ? [this.decoded, 'window'] : [])];
  }

  /** The answer about one image: `data` has height*width*3 bytes, R, G, B, as decoded. All else is in the graph.
   *    classification: { label, index, prob, top: [{ label, prob }] }
   *    multilabel:     { labels, top }
   *    regression:     { }
   *    points:         { points: [[x, y]], window }, in pixels of the image
   *    segmentation:   { mask, height, width, shares: [{ label, share }], window }: a class number for each pixel
   *    image_to_image: { image, height, width, channels, window }: bytes, row after row
   *  and for all: `values`, the output itself, a Float32Array, and `dims`, its shape. `window` is what the net saw:
   *  top, left, height and width in pixels of the image; it may stick out. */
  async predict({ data, width, height }) {
    if (data.length !== width * height * 3) throw new Refusal(`${data.length} bytes are not ${width}x${height} RGB pixels`);
    if (width * height > this.maxPixels) throw new Refusal(`more than ${this.maxPixels} pixels`);
    // the resize's tables grow with the longest side; no JPEG has a longer one
    if (Math.max(width, height) > 65535) throw new Refusal('a side of more than 65535 pixels');
    const picture = new ort.Tensor('uint8', data, [height, width, 3]);
    const outputs = await this.session.run({ picture }, this.outputs());
    const { data: values, dims: [, ...dims] } = outputs[this.output]; // without the batch axis
    if (!values.every(Number.isFinite)) throw new Refusal('the net answers NaN or infinity: its weights are broken');

    if (this.task === 'classification') {
      const top = this.top(values);
      const index = values.indexOf(Math.max(...values));
      return { ...top[0], index, top, values, dims };
    }
    if (this.task === 'multilabel') {
      const labels = this.vocab.filter((_, i) => values[i] > this.threshold);
      return { labels, top: this.top(values), values, dims };
    }
    if (!this.decoded) return { values, dims };

    const { data: decoded, dims: shape } = outputs[this.decoded];
    const answer = { height: shape[0], width: shape[1], window: Array.from(outputs.window.data), values, dims };
    if (this.task === 'segmentation') return { mask: decoded, shares: this.shares(decoded), ...answer };
    if (this.task === 'image_to_image') return { image: decoded, channels: shape[2], ...answer };
    const points = Array.from({ length: shape[0] }, (_, i) => [decoded[2 * i], decoded[2 * i + 1]]);
    return { points, window: answer.window, values, dims };
  }

  /** How much of a mask each class covers, largest first; classes that are not there are left out. */
  shares(mask) {
    const counts = new Array(256).fill(0);
    for (const i of mask) counts[i]++;
    if (counts.some((n, i) => n && i >= this.vocab.length)) throw new Refusal('the mask has a class that the vocab has not');
    return this.vocab.map((label, i) => ({ label, share: counts[i] / mask.length }))
      .filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
  }

  /** A mask of `predict` at the size of the image itself; 255 where the net did not look. */
  originalMask({ mask, height, width, window }, image) {
    if (this.vocab.length > OUTSIDE) throw new Refusal(`class ${OUTSIDE} is one of the model's: it cannot mean outside`);
    const [top, left, tall, wide] = window;
    const from = (n, start, length, m) => Array.from({ length: n }, (_, i) => Math.floor(((i + 0.5 - start) * m) / length));
    const ys = from(image.height, top, tall, height);
    const xs = from(image.width, left, wide, width);
    const res = new Uint8Array(image.height * image.width).fill(OUTSIDE);
    for (const [i, y] of ys.entries()) {
      if (y < 0 || y >= height) continue;
      for (const [j, x] of xs.entries()) if (x >= 0 && x < width) res[i * image.width + j] = mask[y * width + x];
    }
    return res;
  }

  /** The `n` most probable classes. */
  top(values, n = TOP) {
    const order = this.vocab.map((_, i) => i).sort((a, b) => values[b] - values[a]);
    return order.slice(0, n).map((i) => ({ label: this.vocab[i], prob: values[i] }));
  }
}

async function readSpec(folder) {
  let spec;
  try {
    spec = JSON.parse(await readFile(path.join(folder, 'bundle.json'), 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) throw new Refusal(`${folder}: bundle.json is not JSON`);
    throw new Refusal(`${folder}: no bundle.json there: not the folder of a fastai_deploy bundle`);
  }
  if (spec?.format !== FORMAT) throw new Refusal(`${folder}: format ${spec?.format}, and this program reads ${FORMAT}`);
  return spec;
}

async function readVocab(folder, spec) {
  if (!['classification', 'multilabel', 'segmentation'].includes(spec.task)) return [];
  let vocab;
  try {
    vocab = (await readFile(path.join(folder, 'vocab.txt'), 'utf8')).replace(/\r?\n$/, '').split(/\r?\n/);
  } catch {
    throw new Refusal(`${folder}: no vocab.txt there`);
  }
  const [n] = spec.output.shape;
  if (vocab.length !== n) throw new Refusal(`${folder}: vocab.txt has ${vocab.length} classes, bundle.json says ${n}`);
  return vocab;
}

async function openSession(folder) {
  const file = path.join(folder, 'pixels.onnx');
  if (!existsSync(file)) {
    throw new Refusal(`${folder}: no pixels.onnx there: export the model again; if there is still none, `
      + 'its item transforms are no graph, and model.onnx alone needs them in the program');
  }
  try {
    return await ort.InferenceSession.create(file);
  } catch (error) {
    throw new Refusal(`${file}: ${error.message.split('\n')[0]}`);
  }
}
