// The core: a bundle, and its answer about a picture. It knows nothing of files of pictures: see picture.js.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';

// ONNX Runtime reports usage to its makers unless this is set before it is loaded.
process.env.ORT_DISABLE_TELEMETRY ??= '1';
const ort = await import('onnxruntime-node');

const FORMAT = 'fastai_deploy/1';
const TOP = 5;

/** Something that a user did, or has: told in one line, without a stack trace. */
export class Refusal extends Error {}

export class Model {
  /** Open the bundle in `folder`. What bundle.json and vocab.txt say is also in the ONNX file,
   *  but ONNX Runtime shows a JavaScript program no metadata. */
  static async load(folder) {
    const spec = await readSpec(folder);
    const model = new Model();
    model.task = spec.task;
    model.maxPixels = spec.input.max_pixels; // larger pictures are refused
    model.output = spec.output.name;
    model.threshold = Math.fround(spec.output.threshold ?? 0); // of a multilabel net: a label holds above it
    model.vocab = await readVocab(folder, spec); // class names, in output order; empty if the answer is no class
    model.session = await openSession(folder);
    return model;
  }

  /** The answer about one picture: `data` has height*width*3 bytes, R, G, B, as decoded. All else is in the graph.
   *    classification: { label, index, prob, top: [{ label, prob }], values }
   *    multilabel:     { labels, top, values }
   *    other tasks:    { values, dims }
   *  `values` is the output itself, a Float32Array; `dims` its shape. */
  async predict({ data, width, height }) {
    if (data.length !== width * height * 3) throw new Refusal(`${data.length} bytes are not ${width}x${height} RGB pixels`);
    if (width * height > this.maxPixels) throw new Refusal(`more than ${this.maxPixels} pixels`);
    // the resize's tables grow with the longest side; no JPEG has a longer one
    if (Math.max(width, height) > 65535) throw new Refusal('a side of more than 65535 pixels');
    const picture = new ort.Tensor('uint8', data, [height, width, 3]);
    const outputs = await this.session.run({ picture }, [this.output]); // there may be others: ask for this one only
    const { data: values, dims } = outputs[this.output];
    if (!values.every(Number.isFinite)) throw new Refusal('the net answers NaN or infinity: its weights are broken');

    if (this.task === 'classification') {
      const top = this.top(values);
      const index = values.indexOf(Math.max(...values));
      return { ...top[0], index, top, values };
    }
    if (this.task === 'multilabel') {
      const labels = this.vocab.filter((_, i) => values[i] > this.threshold);
      return { labels, top: this.top(values), values };
    }
    return { values, dims: dims.slice(1) }; // without the batch axis
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
  if (!['classification', 'multilabel'].includes(spec.task)) return [];
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
