"""The item ops as ONNX, against Pillow: every op, filter and padding on random images, 0 bytes different. And the two
outputs for programs: what the net saw of the photo, and the finished answer; both as Python has them, bit for bit.

FASTAI_DEPLOY_PIXELS sets how many images each variant gets; every run has the same ones."""
import os, zlib

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')

import fastai_deploy as fd
import onnxruntime as ort
from onnx import helper
from PIL import Image

from fastai_deploy.run.tasks import TASKS, finished
from fastai_deploy.run.bundle import vocab_text
from fastai_deploy.run.write_bundle import update_bundle, write_bundle
from fastai_deploy.run.geometry import window
from fastai_deploy.graph.pixels import item_model, pixels_model
from fastai_deploy.run.replay import Tracer
from fastai_deploy.run.spec import Input, Output, Spec
from fastai_deploy.samples.toys import node, toy_model
from fastai_deploy.run.item_tfms import ORDERS, RESAMPLES, apply_item, item_size, to_array

FINISHED = {name: task.finished for name, task in TASKS.items() if task.finished}

PICTURES = int(os.environ.get('FASTAI_DEPLOY_PIXELS', 20))
PADS = 'zeros', 'border', 'reflection'

def variants(r):
    "Every way to use filter `r`; sizes are drawn later."
    ours = dict(resample=r, order='vertical_if_cheaper')
    resize = dict(op='resize', method='crop', pad_mode='reflection', **ours)
    return [resize, *({**resize, 'method': 'squish', 'order': o} for o in ORDERS),
            *({**resize, 'method': 'pad', 'pad_mode': p} for p in PADS),
            dict(op='random_resized_crop', **ours), dict(op='ratio_resize', **ours)]

VARIANTS = [v for r in RESAMPLES for v in variants(r)] + [dict(op='crop_pad', pad_mode=p) for p in PADS]

def name(v): return '-'.join(o for o in v.values() if isinstance(o, str))

def random_side(rng, most=1200):
    "1 to `most` pixels, small ones as often as large ones."
    return round(most**rng.random())

def sized(v, rng):
    "Variant `v` with arguments drawn at random."
    size = [random_side(rng, 400), random_side(rng, 400)]
    if v['op'] == 'ratio_resize': return {**v, 'max_size': size[0]}
    if v['op'] == 'random_resized_crop': return {**v, 'size': size, 'val_xtra': float(rng.choice([0, .14, .5]))}
    return {**v, 'size': size}

def picture(rng, h, w):
    "Noise, in all levels or in black and white only, where filters overshoot."
    a = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    return a if rng.random() < .7 else (a > 127)*np.uint8(255)

def run_model(model):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model, options)

def session(ops, mode='RGB'):
    return run_model(item_model(Spec(Input(None, mode), ops, [], {}, Output([1], 'identity'))))

def differing(s, ops, a, mode='RGB'):
    "Bytes that differ between graph and Pillow; None where Pillow's route refuses."
    try: want = to_array(apply_item(ops, Image.fromarray(a).convert(mode)))
    except fd.ImageError as e:
        if 'far too large' in str(e): return None    # the graph needs no such step
        # too thin: the graph must not answer either
        try: assert s.run(None, {'picture': a})[0].size == 0
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument: pass
        return None
    got = s.run(None, {'picture': a})[0][0]
    assert got.shape == want.shape
    return int((got != want).sum())

def test_enough(): assert len(VARIANTS)*3*PICTURES >= 2000

@pytest.mark.parametrize('v', VARIANTS, ids=name)
def test_variant(v):
    rng = np.random.default_rng(zlib.crc32(name(v).encode()))
    mode, refused = ('L' if rng.random() < .2 else 'RGB'), 0
    for _ in range(3):
        ops = [sized(v, rng)]
        s = session(ops, mode)
        for _ in range(PICTURES):
            h, w = random_side(rng), random_side(rng)
            n = differing(s, ops, picture(rng, h, w), mode)
            assert not n, f'{n} bytes differ: {ops}, {mode} picture of {h} x {w}'
            refused += n is None
    assert refused < 3*PICTURES or v['op'] == 'ratio_resize'

@pytest.mark.parametrize('r', ['bilinear', 'lanczos', 'nearest'])
def test_chain(r):
    "Two ops, one after the other, with different arguments of the same kind."
    rng, (crop, *_, pad, _, _) = np.random.default_rng(0), variants(r)
    ops = [{**v, 'size': size} for v, size in ((crop, [60, 90]), (pad, [80, 70]), (crop, [131, 237]),
                                               (dict(op='crop_pad', pad_mode='zeros'), [150, 79]))]
    s = session(ops)
    for _ in range(PICTURES): assert not differing(s, ops, picture(rng, random_side(rng), random_side(rng)))

@pytest.mark.parametrize('h, w', [(1, 1), (1, 2), (2, 1), (1, 6000), (6000, 1), (6000, 59), (6000, 61), (59, 6000)])
@pytest.mark.parametrize('r', RESAMPLES)
def test_thin(h, w, r):
    "Where Pillow 12.3 and 13.0 take their two passes the other way round."
    a = picture(np.random.default_rng(h+w), h, w)
    for i, size in enumerate(([224, 224], [h, w], [1, 1], [h+1, 7])):
        ops = [dict(op='resize', size=size, method='squish', pad_mode='zeros', resample=r,
                    order=('vertical_if_thin', 'vertical_if_cheaper')[(h+i)%2])]
        assert not differing(session(ops), ops, a)

@pytest.mark.parametrize('h, w', [(4000, 6000), (6000, 4000), (3000, 4000)])
def test_large(h, w):
    a = picture(np.random.default_rng(h), h, w)
    for v in (variants('bilinear')[0], variants('lanczos')[1], variants('box')[5], variants('bicubic')[7],
              variants('nearest')[4], dict(op='crop_pad', pad_mode='zeros')):
        ops = [{**v, 'size': [224, 299], **({'val_xtra': .14} if v['op'] == 'random_resized_crop' else {})}]
        assert not differing(session(ops), ops, a), ops

# --- what the net saw, and the finished answer

SHAPES = dict(points=[6], segmentation=[3, None, None], image_to_image=[3, None, None])
NAMES = dict(points='points', segmentation='probs', image_to_image='pixels')
NORM = [dict(op='int_to_float', div=255.), dict(op='normalize', mean=[.4, .5, .6], std=[.3, .2, .25])]
BATCHES = [NORM, [dict(op='affine', size=None), *NORM], [dict(op='affine', size=[37, 23])],
           [dict(op='random_resized_crop_gpu', size=[41, 31], ratio=[3/4, 4/3], valid_scale=.83)]]
BATCHES.append([*BATCHES[3], *BATCHES[2], *NORM])

def echo(task, channels=3):
    "A model.onnx whose answer is its image's levels, -1 to 1.55; of points, six means."
    name, points = NAMES[task], task == 'points'
    nodes = [node('Cast', 'image', 'floats', to=1), node('Div', 'floats large', 'parts'),
             node('Sub', 'parts one', 'net_input'), node('Identity', 'net_input', 'logits')]
    six = [node('GlobalAveragePool', 'logits', 'means'), node('Flatten', 'means', 'three'),
           node('Neg', 'three', 'minus'), node('Concat', 'three minus', name, axis=1)]
    return toy_model([*nodes, *(six if points else [node('Identity', 'logits', name)])], name,
                     [6] if points else [channels, 'h', 'w'], (channels, 'h', 'w'), large=100., one=1.)

def echo_spec(task, item, batch=NORM, mode='RGB'):
    size = item_size(item)
    shape = [len(mode), *SHAPES[task][1:]] if task == 'image_to_image' else SHAPES[task]
    return Spec(Input(size and list(size), mode), item, batch if size else NORM[:1],
                dict(source='opaque', why='a toy'), Output(shape, 'identity', NAMES[task]), task=task)

def seen(spec, h, w):
    o = window([*spec.item, *spec.batch], (h, w))
    return [o.top, o.left, o.height, o.width]

KINDS = [v for v in VARIANTS if v.get('resample', 'bilinear') == 'bilinear' and v.get('order') != 'horizontal']

@pytest.mark.parametrize('v', KINDS, ids=name)
def test_window(v):
    "Item ops, two in a row as well, and batch ops: the doubles of Python's window."
    rng, asked = np.random.default_rng(zlib.crc32(name(v).encode())), 0
    drawn = lambda o: sized(o, rng)
    for i, batch in enumerate(BATCHES):
        other = KINDS[rng.integers(len(KINDS))]
        item = [[drawn(v)], [drawn(v), drawn(other)], [drawn(other), drawn(v)]][i % 3]
        spec = echo_spec('points', item, batch)
        try: seen(spec, 60, 60)
        except fd.UnsupportedError: continue  # the crop of a batch op would be empty, and the net has no graph either
        s = run_model(pixels_model(spec, echo('points')))
        for _ in range(PICTURES//2):
            h, w = random_side(rng, 400), random_side(rng, 400)
            try: apply_item(item, Image.new('L', (w, h)))
            except fd.ImageError: continue
            got = s.run(['window'], {'picture': np.zeros((h, w, 3), np.uint8)})[0]
            assert got.dtype == np.float64 and got.tolist() == seen(spec, h, w), (item, batch, h, w)
            asked += 1
    assert asked > PICTURES

def test_window_without_item_ops():
    for task in FINISHED:
        s = run_model(pixels_model(echo_spec(task, []), echo(task)))
        assert s.run(['window'], {'picture': np.zeros((7, 9, 3), np.uint8)})[0].tolist() == [0, 0, 7, 9]

def bundle(folder, spec, model):
    vocab = 'abc' if spec.task == 'segmentation' else ''
    files = {'model.onnx': model, 'pixels.onnx': pixels_model(spec, model, vocab)}
    if vocab: files['vocab.txt'] = vocab_text(vocab).encode()
    return write_bundle(folder, spec, files)

@pytest.mark.parametrize('task, mode', [*((t, 'RGB') for t in FINISHED), ('image_to_image', 'L')])
def test_finished(tmp_path, task, mode):
    "The finished answer is that of `predict`, whatever the engine, and where classes tie."
    rng, item = np.random.default_rng(0), [sized(v, np.random.default_rng(1)) for v in (KINDS[6], KINDS[0])]
    batch = NORM if mode == 'RGB' else [NORM[0], dict(op='normalize', mean=[.4], std=[.3])]
    path = bundle(tmp_path/'b', echo_spec(task, item, batch, mode), echo(task, len(mode)))
    both = [fd.load(path, engine=e) for e in ('model', 'pixels')]
    for _ in range(PICTURES):
        a = picture(rng, random_side(rng), random_side(rng))
        got = both[1].session.run([FINISHED[task], 'window'], {'picture': a})
        for m in both:
            want = finished(m.spec, m.predict(a))
            for name, o in zip((FINISHED[task], 'window'), got):
                assert (o.dtype, o.shape) == (want[name].dtype, want[name].shape)
                np.testing.assert_array_equal(o, want[name])

@pytest.mark.parametrize('task', FINISHED)
def test_proof_of_finished(tmp_path, task):
    "A file whose window or finished answer is not that of its own numbers fails the proof; so does one without."
    spec = echo_spec(task, [sized(KINDS[0], np.random.default_rng(1))])
    b = fd.open_bundle(bundle(tmp_path/'b', spec, echo(task)))
    def proof(change):
        m = onnx.load_from_string(pixels_model(spec, echo(task), 'abc' if task == 'segmentation' else ''))
        change(m.graph)
        update_bundle(fd.open_bundle(b.path), {'pixels.onnx': m.SerializeToString()})
        return Tracer(fd.load(b.path, engine='pixels', check=False))(np.arange(3600, dtype=np.uint8).reshape(30, 40, 3))
    def tensor(g, name): return next(n for n in g.node if name in n.output)
    def renamed(name):
        def change(g):
            node = tensor(g, name)
            node.output[0] = 'before'
            like = helper.make_node('Add', ['before', 'more'], [name])
            kind = dict(window=11, places=1).get(name, 2)
            g.initializer.append(helper.make_tensor('more', kind, [], [1]))
            g.node.insert([*g.node].index(node)+1, like)
        return change
    def without(g): del g.output[1:]
    proof(lambda g: None)
    for name in ('window', FINISHED[task]):
        with pytest.raises(fd.ParityError, match=f'the {name} that pixels.onnx gives'): proof(renamed(name))
    with pytest.raises(fd.ParityError, match="no output 'window'"): proof(without)

def test_finished_at_any_size():
    "A net of any size, without a transform that resizes."
    for task in ('segmentation', 'image_to_image'):
        s = run_model(pixels_model(echo_spec(task, []), echo(task)))
        for h, w in ((1, 1), (5, 3), (40, 60)):
            got = s.run([FINISHED[task]], {'picture': np.full((h, w, 3), 200, np.uint8)})[0]
            assert got.shape == ((h, w) if task == 'segmentation' else (h, w, 3)) and got.dtype == np.uint8

def test_other_tasks_have_no_more_outputs():
    spec = echo_spec('points', [])
    spec.task = 'regression'
    assert [o.name for o in run_model(pixels_model(spec, echo('points'))).get_outputs()] == ['points']
