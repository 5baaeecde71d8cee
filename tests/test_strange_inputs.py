"What stands between a file and the net: transforms, openers, get_x and callbacks that people write themselves."
# ruff: noqa: F811 (the fixture `files`)
import random, warnings
from functools import partial
from operator import attrgetter, itemgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
import pandas as pd
from conftest import same_answers
import timm
import torch
from fastai_deploy.learner.capture import capture
from fastai_deploy.learner.source import find_path, opener, sources
from fastai_deploy.learner.tfms import batch_ops
from fastai_deploy.learner.verify import valid_items
from fastai_deploy.serving.formats import facts
from test_tasks import CODES, dataloaders, files, fit, mask, norm, reloaded  # noqa: F401
from torch import nn

class Small(nn.Module):
    "A net that looks at where things are, and how bright."
    def __init__(self, channels=3, n=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                                  nn.Linear(128, n))
    def forward(self, x): return self.body(x)

def small(dls, **kwargs):
    torch.manual_seed(0)
    return fv.Learner(dls, Small(), loss_func=fv.CrossEntropyLossFlat(), **kwargs)

def block_learner(items, image=fv.ImageBlock, get_x=None, item=fv.Resize(32), get_y=fv.parent_label, **kwargs):
    "A Learner of files, or of rows."
    return small(dataloaders(items, fv.CategoryBlock, get_y, image, item, [], get_x=get_x), **kwargs)

def said(f, *args, **kwargs):
    "(what `f` gives, its warnings)."
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        res = f(*args, **kwargs)
    return res, '\n'.join(str(o.message) for o in w if o.category is UserWarning)

def refused(f, *contains):
    "Refused in one line, which says all of `contains`."
    with pytest.raises(fd.UnsupportedError) as e: f()
    assert '\n' not in str(e.value)
    for c in contains: assert c in str(e.value), str(e.value)
    return str(e.value)

# --- transforms that act on some images only

class TrimWhite(fv.RandTransform):
    "Cuts white borders away: noise has none."
    split_idx = None
    def encodes(self, x: fv.PILImage):
        box = ImageOps.invert(x.convert('L')).getbbox()
        return x.crop(box) if box else x

class TrainOnly(fv.RandTransform):
    "Called at validation too, and does nothing there."
    split_idx = None
    def before_call(self, b, split_idx): self.idx = split_idx
    def encodes(self, x: fv.PILImage): return fv.PILImage(x.rotate(90)) if self.idx == 0 else x

@pytest.mark.parametrize('cls', [TrimWhite, TrainOnly])
def test_random_transform_is_refused_unless_named(files, cls):
    learn = block_learner(files, item=[cls(), fv.Resize(32)])
    why = refused(lambda: capture(learn), cls.__name__, f"inactive=('{cls.__name__}',)")
    assert 'split_idx=0' not in why
    for inactive in ((cls.__name__,), [cls], cls, cls.__name__):
        c, warned = said(capture, learn, inactive=inactive)
        assert [o['op'] for o in c.spec.item] == ['resize'] and f'{cls.__name__}' in warned and 'without it' in warned

def test_a_wrong_name(files):
    learn = block_learner(files, item=[TrimWhite(), fv.Resize(32)])
    refused(lambda: capture(learn, inactive=('TrimBlack',)), 'TrimBlack', 'TrimWhite')
    refused(lambda: said(capture, learn, inactive=('TrimWhite', 'Resize')), 'Resize', 'take the name out')

def test_advice_fits():
    "`split_idx=0` is for transforms that could do with it."
    class Gamma(fv.Transform):
        order = 20
        def encodes(self, x: fv.TensorImage): return x**2
    class Only(Gamma): split_idx = 1
    for t, has, lacks in ((Gamma(), 'split_idx=0', 'register_op'), (Only(), 'layer of the net', 'split_idx=0')):
        dl = fv.TfmdDL([0], bs=1, num_workers=0)
        dl.after_batch.fs.append(t)
        assert lacks not in refused(lambda: batch_ops(dl), has)  # noqa: B023

# --- transforms on the target only

class MergeInk(fv.Transform):
    order = 6
    def encodes(self, x: fv.TensorMask): return x.clamp(max=1)

class Twice(fv.Transform):
    order = 6
    def encodes(self, x: fv.TensorCategory): return x

def on_mask(x: fv.PILMask): return x

class MoveBoth(fv.ItemTransform):
    order = 6
    def encodes(self, xy): return xy

class MaskAndImage(fv.Transform):
    order = 6
    def encodes(self, x: fv.TensorMask): return x
    def encodes(self, x: fv.TensorImage): return x//2

def masks(files, image=fv.ImageBlock, item=(), batch=()):
    return dataloaders(files, fv.MaskBlock(CODES), mask, image, [fv.Resize(32), *item], [norm(), *batch])

def segment(*args):
    "A Learner for segmentation, with a net of one layer."
    return fv.Learner(masks(*args), nn.Conv2d(3, len(CODES), 1), loss_func=fv.CrossEntropyLossFlat(axis=1))

def test_target_only_transforms_pass(files):
    learn = segment(files, fv.ImageBlock, [MergeInk(), fv.Transform(on_mask)], [Twice(order=7)])
    c, warned = said(capture, learn)
    assert warned == '' and [o['op'] for o in c.spec.item+c.spec.batch] == ['resize', 'int_to_float', 'normalize']

@pytest.mark.parametrize('t', [MoveBoth(), MaskAndImage()])
def test_transforms_that_see_the_image_do_not(files, t):
    refused(lambda: capture(segment(files, fv.ImageBlock, [t])), type(t).__name__)

def test_grey_batches_are_seen():
    "A transform for TensorImageBW acts on grey images, though not on all images."
    class Ink(fv.Transform):
        def encodes(self, x: fv.TensorImageBW): return 1-x
    dl = fv.TfmdDL([0], bs=1, num_workers=0)
    dl.after_batch.fs.append(Ink())
    refused(lambda: batch_ops(dl, 1), 'Ink')

# --- get_x

def thumbs(p): return p.parent/'thumbs'/p.name
def opens(p): return fv.PILImage(fv.PILImage.create(p).crop((0, 0, 12, 12)))
def as_array(p): return np.array(Image.open(p))
def looks_up(p): return dict()[p]

@pytest.fixture(scope='session')
def with_thumbs(files, tmp_path_factory):
    "A folder of images, each with another image as its thumbnail."
    out = tmp_path_factory.mktemp('images')
    res = [out/p.parent.name/p.name for p in files]
    for p, other, to in zip(files, files[::-1], res):
        (to.parent/'thumbs').mkdir(parents=True, exist_ok=True)
        to.write_bytes(p.read_bytes())
        (to.parent/'thumbs'/to.name).write_bytes(other.read_bytes())
    return res

def test_thumbnails(with_thumbs, tmp_path):
    "Exported with a warning; the spec says what a path is; the comparison opens what fastai opens."
    learn = block_learner(with_thumbs, get_x=thumbs)
    bundle, warned = said(fd.export, learn, tmp_path/'b', goldens=2, progress=False)
    assert fd.verify(bundle, learn, store=False, progress=False).ok
    model = fd.load(bundle)
    assert 'thumbs' in warned and 'that get_x gives' in warned
    assert model.spec.input.path == 'the image file that get_x (test_strange_inputs.thumbs) gives'
    assert any('get_x' in o for _, lines in facts(model.bundle) for o in lines)
    same_answers(model, learn, with_thumbs[:4], thumbs)
    assert said(capture, reloaded(learn, tmp_path))[0].spec.input == model.spec.input

@pytest.mark.parametrize('get_x, what', [(opens, 'PILImage'), (as_array, 'ndarray')])
@pytest.mark.parametrize('live', [True, False])
def test_get_x_that_opens_is_refused(files, tmp_path, get_x, what, live):
    "Also after `load_learner`, when there is no image to try it on."
    learn = block_learner(files, get_x=get_x)
    if not live: learn = reloaded(learn, tmp_path)
    refused(lambda: fd.export(learn, tmp_path/'b', goldens=files[:2], progress=False), get_x.__name__, what)

def test_get_x_that_cannot_be_judged(files, tmp_path):
    known = {p: p for p in files}
    learn = block_learner(files, get_x=lambda p: known[p])
    assert 'that get_x' in said(capture, learn)[0].spec.input.path  # its own images say that it gives paths
    known.clear()
    refused(lambda: capture(reloaded(learn, tmp_path)), 'export the Learner where its images are')

def rows(files):
    return pd.DataFrame(dict(name=[str(p) for p in files], label=[p.parent.name for p in files]))

PLAIN = {'none': (None, None), 'noop': (fv.noop, None), 'a column': (fv.ColReader('name'), rows),
         'rows': (lambda r: r['name'], rows),
         'itemgetter': (itemgetter('name'), lambda fs: rows(fs).to_dict('records')),
         'attrgetter': (attrgetter('name'), lambda fs: list(rows(fs).itertuples()))}

@pytest.mark.parametrize('how', PLAIN)
def test_get_x_that_predict_skips(files, tmp_path, how):
    "No get_x, or one that reads rows: learn.predict(path) opens that path, and so does the bundle."
    get_x, items = PLAIN[how]
    get_y = fv.parent_label if items is None else lambda r: r['label'] if isinstance(r, (pd.Series, dict)) else r[-1]
    learn = block_learner(items(files) if items else files, get_x=get_x, get_y=get_y)
    for o in (learn, reloaded(learn, tmp_path)):
        path, warned = said(find_path, o)
        assert (path, warned) == ('the image file itself', '')
    assert Path(sources(learn, [0])[0]).exists()

def test_rows_that_are_opened(files, tmp_path):
    learn = block_learner(rows(files), get_x=lambda r: opens(r['name']), get_y=lambda r: r['label'])
    for o in (learn, reloaded(learn, tmp_path)): refused(lambda: capture(o), 'gives a PILImage')  # noqa: B023

# --- openers

class Upright(fv.PILImage):
    @classmethod
    def create(cls, fn, **kwargs): return cls(ImageOps.exif_transpose(Image.open(fn)).convert('RGB'))

class Plain(fv.PILImage): pass

class Same(fv.PILImage):
    @classmethod
    def create(cls, fn, **kwargs): return super().create(fn, **kwargs)

class Shrinks(fv.PILImage):
    @classmethod
    def create(cls, fn, **kwargs):
        im = super().create(fn, **kwargs)
        im.thumbnail((1024, 1024))
        return im

class OnWhite(fv.PILImage):
    "Transparent images on white."
    @classmethod
    def create(cls, fn, **kwargs):
        im = Image.open(fn).convert('RGBA')
        return cls(Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB'))

class Trimmed(fv.PILImage):
    @classmethod
    def create(cls, fn, **kwargs):
        im = super().create(fn, **kwargs)
        return cls(im.crop(ImageOps.invert(im).getbbox())) if min(im.size) > 20 else im

def turned(p): return fv.PILImage(ImageOps.exif_transpose(Image.open(p)).convert('RGB'))
def halved(p): return fv.PILImage(fv.PILImage.create(p).reduce(2))

@pytest.mark.parametrize('block, exif, warns', [
    (fv.ImageBlock, False, ''), (fv.ImageBlock(Plain), False, ''), (fv.ImageBlock(Same), False, 'Same.create'),
    (fv.ImageBlock(Upright), True, 'Upright.create'), (fv.TransformBlock(type_tfms=turned), True, 'turned')])
def test_openers(files, tmp_path, block, exif, warns):
    learn = block_learner(files, block)
    for o in (learn, reloaded(learn, tmp_path)):
        c, warned = said(capture, o)
        assert c.spec.input.exif is exif
        assert (warns in warned and 'drawn files' in warned) if warns else warned == ''

@pytest.mark.parametrize('block', [fv.ImageBlock(Shrinks), fv.ImageBlock(OnWhite), fv.ImageBlock(Trimmed),
                                   fv.TransformBlock(type_tfms=halved)])
def test_other_openers_are_refused(files, block):
    refused(lambda: capture(block_learner(files, block)), 'other pixels', '(a drawn file)')

@pytest.mark.parametrize('exif', [True, False])
def test_patched_opener_is_noticed(files, monkeypatch, exif):
    "fastai's own class, with another `create`."
    other = ImageOps.exif_transpose if exif else lambda im: im.convert('L')
    monkeypatch.setattr(fv.PILImage, 'create', classmethod(lambda cls, fn: cls(other(Image.open(fn)).convert('RGB'))))
    learn = block_learner(files)
    if exif: assert said(capture, learn)[0].spec.input.exif
    else: refused(lambda: capture(learn), 'other pixels')

def test_patched_load_image_is_noticed(files, monkeypatch):
    "Deeper inside fastai."
    load = fv.load_image
    learn = block_learner(files)
    monkeypatch.setattr('fastai.vision.core.load_image', lambda fn, mode=None: load(fn, mode).rotate(180))
    refused(lambda: capture(learn), 'other pixels')

# --- grey images in a colour net

def grey_unet(files):
    dls = masks(files, fv.ImageBlock(fv.PILImageBW))
    return fv.unet_learner(dls, partial(timm.create_model, 'test_resnet'), pretrained=False)

def grey_vision(files):
    dls = dataloaders(files, fv.CategoryBlock, fv.parent_label, partial(fv.ImageBlock, fv.PILImageBW))
    return fv.vision_learner(dls, 'test_resnet', pretrained=False)

@pytest.mark.parametrize('make, engine', [(grey_vision, 'pixels'), (grey_unet, 'model')])
def test_grey_images_in_a_colour_net(files, tmp_path, make, engine):
    "`Normalize` makes three channels of one; both graphs take the one."
    learn = fit(make(files))
    bundle = fd.export(learn, tmp_path/'b', goldens=1, progress=False, pixels=engine == 'pixels')
    assert fd.load(bundle).spec.input.channels == 1
    assert fd.verify(bundle, learn, valid_items(learn, 4), store=False, progress=False, engine=engine).ok

# --- callbacks

class Keep(fv.Callback):
    "Only looks."
    def __init__(self, seen): self.seen = seen
    def before_batch(self): self.seen.append(self.x.mean().item())
    def after_pred(self): self.last = random.random() + np.random.rand() + torch.rand(1).item()

class InTraining(fv.Callback):
    def before_batch(self):
        if self.training: self.learn.xb = tuple(x*.5 for x in self.xb)

class Halve(fv.Callback):
    def before_batch(self): self.learn.xb = tuple(x*.5 for x in self.xb)

class Answers(fv.Callback):
    def after_pred(self): self.learn.pred = self.pred.flip(1)

class Trains(fv.Callback):
    "Puts the net into training mode, before anything else is called."
    order = 50
    def before_validate(self): self.model.train()

class Doubles(fv.Callback):
    "Changes the net, far from any batch."
    def before_fit(self): self.hook = self.model.register_forward_hook(lambda m, x, out: out*2)
    def after_fit(self): self.hook.remove()

def test_callbacks_that_look(files):
    seen = ['mine']
    learn = block_learner(files, cbs=[Keep(seen), InTraining()])
    cbs, states = list(learn.cbs), [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]
    c, warned = said(capture, learn)
    assert [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()] == states
    assert seen == ['mine'] and not hasattr(learn.keep, 'last') and list(learn.cbs) == cbs and learn.keep.learn is learn
    assert 'Keep' in warned and 'InTraining' in warned and 'without it' in warned

@pytest.mark.parametrize('cb', [Halve(), Answers(), Doubles(), fv.Callback(
    before_batch=lambda self: setattr(self.learn, 'xb', tuple(x*.5 for x in self.xb)))])
def test_callbacks_that_act(files, cb):
    refused(lambda: capture(block_learner(files, cbs=cb)), 'changes predictions', type(cb).__name__)

def test_callback_on_the_mode(files):
    "Batch norm in training mode: refused, and its statistics are as before."
    learn = fv.vision_learner(dataloaders(files, fv.CategoryBlock, fv.parent_label), 'test_resnet', pretrained=False,
                              cbs=Trains())
    kept = {k: v.clone() for k, v in learn.model.state_dict().items()}
    refused(lambda: capture(learn), 'Trains')
    assert all(torch.equal(v, kept[k]) for k, v in learn.model.state_dict().items())

# --- the validation set

def test_label_that_training_never_saw(files):
    "Without an item transform the size is that of the images; their labels are nobody's business."
    same = [p for p in files if Image.open(p).size == Image.open(files[0]).size][:1]*6
    labels = ['a', 'b', 'a', 'b', 'new', 'new']
    dls = dataloaders(range(6), fv.CategoryBlock, lambda i: labels[i], item=None, batch=None, get_x=lambda i: same[i],
                      splitter=fv.IndexSplitter([4, 5]))
    learn = fv.Learner(dls, Small(n=2), loss_func=fv.CrossEntropyLossFlat())
    w, h = Image.open(same[0]).size
    assert said(capture, learn)[0].spec.input.size == [h, w]

def test_no_validation_images(files):
    "The way out is named."
    learn = small(dataloaders(files, fv.CategoryBlock, fv.parent_label, splitter=fv.IndexSplitter([]), item=None))
    refused(lambda: capture(learn), 'no validation images', 'size=(height, width)')
    assert capture(learn, size=(32, 32)).spec.input.size == [32, 32]
    learn.dls.loaders = learn.dls.loaders[:1]
    refused(lambda: opener(learn), 'no validation DataLoader')
