"""The item ops as ONNX, against Pillow: every op, filter and padding on random pictures, 0 bytes different.

FASTAI_DEPLOY_PIXELS sets how many pictures each variant gets; every run has the same ones."""
import os
import zlib

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')

import onnxruntime as ort
from PIL import Image

from fastai_deploy.pixels import item_model
from fastai_deploy.spec import ImageError, Input, Output, Spec
from fastai_deploy.transforms import ORDERS, RESAMPLES, apply_item, to_array

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

def session(ops, mode='RGB'):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(item_model(Spec(Input(None, mode), ops, [], {}, Output([1], 'identity'))), options)

def differing(s, ops, a, mode='RGB'):
    "Bytes that differ between graph and Pillow; None where Pillow's route refuses."
    try: want = to_array(apply_item(ops, Image.fromarray(a).convert(mode)))
    except ImageError as e:
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
