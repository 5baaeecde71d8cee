"""Random images through random transforms: item ops byte for byte as in fastai, batch ops within 1e-5.

FASTAI_DEPLOY_EXAMPLES sets how many item cases there are (a fifth as many batch cases); every run has the same ones."""
import os
from collections import Counter
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest

fv = pytest.importorskip('fastai.vision.all')

import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from inputs import MODES
from PIL import Image

from fastai_deploy.nets.batch_tfms import batch_module, batch_size_after
from fastai_deploy.learner.tfms import batch_ops, item_ops
from fastai_deploy.run.image import open_image
from fastai_deploy.run.basics import ImageError, UnsupportedError
from fastai_deploy.run.item_tfms import apply_item, check_item, item_size, pillow_order, to_array

EXAMPLES = int(os.environ.get('FASTAI_DEPLOY_EXAMPLES', 2500))
pytestmark = pytest.mark.filterwarnings('ignore')     # fastai's, torch's, and ours about RatioResize

def examples(n):
    "The same `n` examples in every run; nothing is kept on disk."
    return settings(max_examples=n, derandomize=True, database=None, deadline=None, print_blob=False,
                    phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))

def noise(seed, *shape):
    "Bytes without two neighbours alike: a misplaced pixel shows."
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

class One(list):
    split_idx = 1

# --- item transforms

tiny, small, medium, large = (st.integers(*o) for o in ((1, 8), (1, 80), (20, 400), (300, 1800)))
side = st.one_of(tiny, small, small, medium)
pair = st.one_of(*[st.tuples(side, side)]*7, *[st.tuples(medium, medium)]*2, st.tuples(large, large))
target = st.one_of(st.integers(1, 9), st.integers(8, 64), st.sampled_from([32, 64, 96, 128, 224]))
size = st.one_of(target, st.tuples(target, target))
pads = st.sampled_from([fv.PadMode.Zeros, fv.PadMode.Border, fv.PadMode.Reflection])
resamples = st.sampled_from([(Image.Resampling(o), Image.Resampling.NEAREST) for o in range(6)])

resize = st.builds(fv.Resize, size, method=st.sampled_from(['crop', 'pad', 'squish']), pad_mode=pads,
                   resamples=resamples)
random_resized = st.builds(fv.RandomResizedCrop, size, min_scale=st.floats(.05, 1), resamples=resamples,
                           val_xtra=st.one_of(st.just(.14), st.floats(0, 1)))
crop_pad = st.builds(fv.CropPad, size, pad_mode=pads)
random_crop = st.builds(fv.RandomCrop, size)
ratio_resize = st.builds(fv.RatioResize, st.integers(2, 224), resamples=resamples)
inactive = st.sampled_from([fv.FlipItem, fv.DihedralItem]).map(lambda cls: cls(p=1.))
final = st.one_of(resize, random_resized, crop_pad, random_crop)
chains = st.one_of(st.tuples(final), st.tuples(final), st.tuples(ratio_resize), st.tuples(resize, inactive),
                   st.tuples(ratio_resize, final), st.tuples(resize, crop_pad), st.tuples(random_resized, random_crop),
                   st.tuples(crop_pad, resize), st.tuples(resize, resize, inactive))

def fastai_item(tfms, im):
    "(validation DataLoader with these item transforms, what it makes of an image or its exception)."
    dl = fv.TfmdDL(One([(im,)]), bs=1, num_workers=0, after_item=[*tfms, fv.ToTensor()])
    dl.before_iter()
    with patch('random.random', lambda: .5):           # RatioResize rolls dice at validation
        try: return dl, dl.do_item(0)[0]
        except Exception as e: return dl, e

def item_case(tfms, wh, mode, seed):
    "'equal', 'both refuse', 'we refuse' a step of gigabytes, or an assertion."
    cls, (w, h) = MODES[mode], wh
    a = noise(seed, h, w) if mode == 'L' else noise(seed, h, w, len(mode))
    dl, want = fastai_item(tfms, cls.create(a))
    note(f'fastai: {want!r}' if isinstance(want, Exception) else f'fastai: {tuple(want.shape)}')
    try:
        ops = item_ops(dl, cls)
        check_item(ops)
        note(f'ops: {ops}')
        got = to_array(apply_item(ops, open_image(a, mode)))
    except (ImageError, UnsupportedError) as e:
        if isinstance(want, Exception): return 'both refuse'
        assert 'far too large' in str(e), e
        return 'we refuse'
    assert not isinstance(want, Exception), f'fastai fails, we do not: {want!r}'
    assert (got.shape, got.dtype) == (tuple(want.shape), np.uint8)
    assert int((got != want.numpy()).sum()) == 0
    assert item_size(ops) in (None, got.shape[1:])
    return 'equal'

def test_item_transforms():
    "No byte differs from what fastai's own DataLoader makes of an image at validation."
    seen = Counter()
    @examples(EXAMPLES)
    @given(chains, pair, st.sampled_from(['RGB', 'RGB', 'L', 'RGBA']), st.integers(0, 2**32-1))
    def check(tfms, wh, mode, seed): seen[item_case(tfms, wh, mode, seed)] += 1
    check()
    print(f'{seen["equal"]} item cases without a differing byte; {dict(seen)}')
    assert seen['equal'] >= .9*EXAMPLES and seen['both refuse'] <= .1*EXAMPLES and seen['we refuse'] <= .01*EXAMPLES

def test_a_shifted_crop_is_seen():
    "A test that cannot fail proves nothing: a crop one pixel off, another filter, another pad mode."
    a = noise(0, 60, 90, 3)
    _, want = fastai_item([fv.Resize(40, fv.ResizeMethod.Pad)], fv.PILImage.create(a))
    op = dict(op='resize', size=[40, 40], method='pad', pad_mode='reflection', resample='bilinear',
              order=pillow_order())
    def differ(x, **kw): return int((to_array(apply_item([{**op, **kw}], open_image(x))) != want.numpy()).sum())
    assert differ(a) == 0
    assert differ(a[:, 1:]) > 1000 and differ(a, resample='bicubic') > 1000 and differ(a, pad_mode='border') > 500

# --- batch transforms

unit = st.floats(0, 1)
bside = st.one_of(st.integers(2, 40), st.integers(2, 160), st.integers(40, 160), st.sampled_from([128, 224, 460]))
btarget = st.one_of(st.integers(8, 40), st.integers(8, 160), st.sampled_from([64, 128, 224]))
bsize = st.one_of(st.none(), btarget, st.tuples(btarget, btarget))
modes = st.sampled_from(['bilinear', 'bilinear', 'nearest', 'bicubic'])
grid = dict(mode=modes, pad_mode=pads)
align = st.sampled_from([True, True, False, None])

@st.composite
def crops(draw):
    lo = draw(st.floats(.4, 1.2))
    return fv.RandomResizedCropGPU(draw(st.one_of(btarget, st.tuples(btarget, btarget))), mode=draw(modes),
                                   ratio=(lo, draw(st.floats(lo, 2))), valid_scale=draw(st.floats(.5, 1)))

def make(cls, **kw): return st.fixed_dictionaries(kw).map(lambda kw: cls(**kw))
moves = [make(o, size=bsize, align_corners=align, p=unit, **grid)
         for o in (fv.Rotate, fv.Zoom, fv.Warp, fv.Flip, fv.Dihedral)]
light = [make(o, p=unit, max_lighting=st.floats(.05, .8)) for o in (fv.Brightness, fv.Contrast, fv.Saturation)]
light += [make(o, p=unit) for o in (fv.Hue, fv.RandomErasing)]
extras = st.lists(st.one_of(*moves, *light, crops()), max_size=2)

@st.composite
def augs(draw):
    size = draw(bsize)
    kw = dict(mult=st.floats(.1, 2), do_flip=st.booleans(), flip_vert=st.booleans(), max_rotate=st.floats(0, 180),
              min_zoom=st.floats(.5, 1), max_zoom=st.floats(1, 2), max_lighting=st.floats(0, .4),
              max_warp=st.floats(0, .4), p_affine=unit, p_lighting=unit, xtra_tfms=extras, align_corners=align,
              batch=st.booleans(), **grid)
    if size: kw['min_scale'] = st.sampled_from([1., 1., .75, .3])
    return fv.aug_transforms(size=size, **draw(st.fixed_dictionaries(kw)))

@st.composite
def batch_cases(draw):
    "Batch transforms, and the shape of a batch for them."
    channels = draw(st.sampled_from([1, 3, 3, 4]))
    tfms = draw(st.one_of(augs(), augs(), extras, st.tuples(augs(), augs()).map(lambda o: o[0]+o[1])))
    stats = st.tuples(*[st.lists(st.floats(*o), min_size=channels, max_size=channels) for o in ((0, 1), (.15, .6))])
    norm = draw(st.one_of(st.none(), st.just(fv.imagenet_stats) if channels == 3 else stats, stats, st.just(())))
    if norm is not None:
        tfms = [*tfms, fv.Normalize.from_stats(*norm, cuda=False) if norm else fv.Normalize()]
    return tfms, (draw(st.integers(1, 3)), channels, draw(bside), draw(bside))

def batch_case(tfms, shape, seed):
    "Largest difference of the two, 'refused' by both, 'flat', or an assertion."
    n, channels, h, w = shape
    x = torch.from_numpy(noise(seed, *shape))
    cls = fv.TensorImageBW if channels == 1 else fv.TensorImage
    make_dl = partial(fv.TfmdDL, One([(cls(o),) for o in x]), bs=n, num_workers=0)
    try: dl = make_dl(after_batch=[fv.IntToFloatTensor(), *tfms])
    except Exception: return 'refused'                 # fastai's: `Normalize` asks for a batch, and there is none
    try: want = torch.Tensor(dl.one_batch()[0])
    except Exception as e: want = e
    try:
        ops = batch_ops(dl, channels)
        note(f'ops: {ops}')
        with torch.no_grad(): got = batch_module(ops, (h, w), channels)(x)
    except UnsupportedError as e:
        assert isinstance(want, Exception), e
        return 'refused'
    if any(min(o['std']) < .1 for o in ops if o['op'] == 'normalize'): return 'flat'   # a batch of one colour
    assert not isinstance(want, Exception), f'fastai fails, we do not: {want!r}'
    assert (got.shape, got.dtype) == (want.shape, torch.float32)
    assert tuple(batch_size_after(ops, (h, w))) == tuple(got.shape[-2:])
    off = (got - want).abs().max().item()
    assert off <= 1e-5, off
    return off

def test_batch_transforms():
    "Within 1e-5 of what fastai's own DataLoader hands to the net at validation."
    seen = []
    @examples(EXAMPLES//5)
    @given(batch_cases(), st.integers(0, 2**32-1))
    def check(case, seed): seen.append(batch_case(*case, seed))
    check()
    off = [o for o in seen if not isinstance(o, str)]
    print(f'{len(off)} batch cases, {max(off):.1e} at worst; {dict(Counter(o for o in seen if isinstance(o, str)))}')
    assert len(off) >= .85*EXAMPLES//5
