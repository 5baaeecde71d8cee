"Small bundles of every task, made by hand: graph, goldens and proof, without torch."
import io, json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.run.bundle import open_bundle, vocab_text
from fastai_deploy.run.write_bundle import write_bundle
from fastai_deploy.run.goldens import golden_entry
from fastai_deploy.run.replay import Tracer, replay
from fastai_deploy.run.spec import Input, Output, Spec
from fastai_deploy.run import tasks

TASKS = dict(classification=('softmax', 'probs', [5]), multilabel=('sigmoid', 'probs', [5]),
             regression=('identity', 'values', [2]), points=('identity', 'points', [4]),
             segmentation=('softmax', 'probs', [4, 16, 12]), image_to_image=('identity', 'pixels', [3, 16, 12]))
ACTS = dict(softmax=lambda x, y: h.make_node('Softmax', [x], [y], axis=1), sigmoid=lambda x, y: h.make_node('Sigmoid',
    [x], [y]),
            identity=lambda x, y: h.make_node('Identity', [x], [y]))

def graph(task):
    "A net of one layer: what it sees at every pixel, or on average."
    act, name, shape = TASKS[task]
    w = np.random.default_rng(3).normal(size=(shape[0], 3)).astype(np.float32)
    const = lambda n, a: numpy_helper.from_array(np.asarray(a, np.float32), n)
    nodes = [h.make_node('Cast', ['image'], ['float'], to=T.FLOAT), h.make_node('Div', ['float', 'div'], ['net_input'])]
    if len(shape) == 3: nodes += [h.make_node('Conv', ['net_input', 'w'], ['logits'])]
    else: nodes += [h.make_node('GlobalAveragePool', ['net_input'], ['mean']), h.make_node('Flatten', ['mean'],
        ['flat']),
                    h.make_node('Gemm', ['flat', 'w'], ['logits'], transB=1)]
    g = h.make_graph([*nodes, ACTS[act]('logits', name)], 'toy',
                     [h.make_tensor_value_info('image', T.UINT8, ['N', 3, 16, 12])],
                     [h.make_tensor_value_info(name, T.FLOAT, ['N', *shape])],
                     [const('div', 255), const('w', w[:, :, None, None] if len(shape) == 3 else w)])
    model = h.make_model(g, opset_imports=[h.make_opsetid('', 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()

def photo(seed):
    "Some smooth colours."
    small = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC)

def png(image):
    "An image as the bytes of a PNG."
    out = io.BytesIO()
    image.save(out, 'png')
    return out.getvalue()

def proof(folder):
    "Goldens and parity.json of the bundle in `folder`: what it answers itself."
    model, files, entries = fd.load(folder, check=False), {}, []
    for i in range(2):
        t = Tracer(model)(photo(i), f'golden {i}')
        files[f'golden/{i}.png'] = png(photo(i))
        if big := t.decided.ndim > 1: files[f'golden/{i}.answer.png'] = png(Image.fromarray(t.decided.astype(np.uint8)))
        entries.append(golden_entry(t, f'{i}.png', f'{i}.answer.png' if big else None))
    return {**files, 'golden/golden.json': json.dumps(entries).encode()}

@lru_cache
def toy(task='classification'):
    "(spec, files) of a bundle whose proof holds."
    act, name, shape = TASKS[task]
    item = dict(op='resize', size=[16, 12], method='crop', pad_mode='reflection', resample='bilinear',
                order='horizontal')
    batch = [dict(op='int_to_float', div=255.), dict(op='normalize', mean=[0.]*3, std=[1.]*3)]
    spec = Spec(Input([16, 12]), [item], batch, dict(source='opaque', why='a toy'),
                Output(shape, act, name, threshold=.5 if task == 'multilabel' else None), task=task)
    files = {'model.onnx': graph(task)}
    if tasks.TASKS[task].has_vocab: files['vocab.txt'] = vocab_text('abcdefg'[:shape[0]]).encode()
    with TemporaryDirectory() as tmp:
        files |= proof(write_bundle(Path(tmp)/'a', spec, files))
        model = fd.load(write_bundle(Path(tmp)/'b', spec, files))
        files['parity.json'] = replay(model).check().to_json().encode()
        return open_bundle(write_bundle(Path(tmp)/'c', spec, files)).spec, files
