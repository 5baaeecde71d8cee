"Learners whose proof is special: answers near zero, a single class, much float noise, no images at hand."
# ruff: noqa: F811 (the fixtures `files` and `with_thumbs`)
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageOps

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
import torch
from conftest import same_answers
from fastai_deploy.learner.verify import valid_items
from test_strange_inputs import Small, Upright, block_learner, reloaded, said, thumbs, with_thumbs  # noqa: F401
from test_tasks import dataloaders, files, fit, value  # noqa: F401
from torch import nn

def export(learn, path, **kwargs):
    "A bundle, without a word."
    return said(partial(fd.export, progress=False, **kwargs), learn, path)[0]

# --- answers near zero, a single class

def number(files, y, **kwargs):
    dls = dataloaders(files, fv.RegressionBlock, y)
    torch.manual_seed(0)
    return fit(fv.vision_learner(dls, 'test_resnet', pretrained=False, lin_ftrs=[16], n_out=1, **kwargs))

@pytest.mark.parametrize('which', [0, 1, 2])
def test_regression_near_zero(files, tmp_path, which):
    "One image's answer is moved to zero exactly: relative to that one number, any noise is too much."
    learn = number(files, lambda p: value(p)/9 - .5)
    near = list(learn.dls.valid_ds.items)[which]
    with learn.no_bar(), learn.no_logging(): at = learn.predict(near)[2]
    shift = nn.Linear(1, 1)
    with torch.no_grad(): shift.weight.fill_(1), shift.bias.fill_(-float(at))
    learn.model = nn.Sequential(learn.model, shift)
    with learn.no_bar(), learn.no_logging(): assert abs(float(learn.predict(near)[2])) < 1e-6
    bundle = export(learn, tmp_path/'b', goldens=4)
    assert fd.verify(bundle, learn, progress=False).ok

def test_regression_is_still_measured(files, tmp_path):
    "A thousandth of the spread is a difference, however small all the numbers are."
    learn = number(files, lambda p: value(p)/9 - .5)
    scaled = nn.Linear(1, 1, bias=False)
    with torch.no_grad(): scaled.weight.fill_(1e-6)
    learn.model = nn.Sequential(learn.model, scaled)
    bundle = export(learn, tmp_path/'b', goldens=4)
    assert fd.verify(bundle, learn, progress=False).ok
    with torch.no_grad(): scaled.weight.mul_(1.001)
    with pytest.raises(fd.ParityError) as e: fd.verify(bundle, learn, progress=False)
    assert e.value.stage == 'net'

def test_one_class(files, tmp_path):
    dls = dataloaders(files, fv.CategoryBlock, lambda p: 'digit')
    learn = fv.Learner(dls, Small(n=1), loss_func=fv.CrossEntropyLossFlat())
    bundle = export(learn, tmp_path/'b', goldens=4)
    assert fd.verify(bundle, learn, progress=False).ok and fd.load(bundle).vocab == ['digit']

# --- noise

class Rounds(nn.Module):
    "Loses most of its digits: in float32, a large constant leaves few digits beside it."
    def forward(self, x): return (x + 3e4) - 3e4

def test_noise_is_stated(files, tmp_path):
    "float32 itself is off by more than 1e-5 here: the bundle says by how much, and is held to that."
    learn = block_learner(files)
    learn.model = nn.Sequential(learn.model.body[:4], Rounds(), learn.model.body[4:])
    bundle = export(learn, tmp_path/'b', goldens=4)
    model = fd.load(bundle)
    raw, answer = model.spec.output.noise
    assert 1e-5 < raw <= 1e-2
    parity = fd.verify(bundle, learn, progress=False)
    assert parity.ok and 'stated noise of float32' in parity.table()
    assert all(1e-4 < s.limit <= 1e-2 for s in parity.stages if s.name == 'net')

def test_amplified_logits(files, tmp_path):
    "Logits of thousands: float32 knows them to a thousandth, and so may the probabilities differ."
    learn = fit(block_learner(files))
    with torch.no_grad(): learn.model.body[-1].weight.mul_(3e3)
    bundle = export(learn, tmp_path/'b', goldens=4)
    parity = fd.verify(bundle, learn, progress=False)
    assert parity.ok and parity.stages[-1].limit <= 1e-2
    fd.load(bundle)

def test_two_units(files, tmp_path):
    "Metres and a share: a wrong share is nothing beside metres, and is found."
    dls = dataloaders(files, fv.RegressionBlock(n_out=2), lambda p: [value(p)*3e3, value(p)/9])
    torch.manual_seed(0)
    learn = fit(fv.Learner(dls, Small(n=2), loss_func=fv.MSELossFlat()))
    with torch.no_grad(): learn.model.body[-1].weight[0].mul_(1e4)
    bundle = export(learn, tmp_path/'b', goldens=4)
    assert fd.verify(bundle, learn, progress=False).ok
    with torch.no_grad(): learn.model.body[-1].weight[1].mul_(-3)
    with pytest.raises(fd.ParityError): fd.verify(bundle, learn, progress=False)

def test_usual_noise_changes_nothing(digits_bundle):
    parity = fd.verify(digits_bundle)
    assert [s.limit for s in parity.stages] == [0, 0, 1e-5, 1e-4, 1e-5] and 'noise' not in parity.table()

# --- what nobody sees

class SometimesInverted(fv.PILImage):
    "Opens some files of the user's otherwise; no file that we could draw."
    @classmethod
    def create(cls, fn, **kwargs):
        im = super().create(fn, **kwargs)
        return cls(ImageOps.invert(im)) if 'nine' in str(fn) else im

@pytest.mark.parametrize('get_x', [None, thumbs])
def test_goldens_are_opened_by_the_learner(with_thumbs, tmp_path, get_x):
    learn = block_learner(with_thumbs, fv.ImageBlock(SometimesInverted), get_x=get_x)
    nines = [p for p in valid_items(learn) if 'nine' in str(p)]
    with pytest.raises(fd.UnsupportedError, match="the Learner's opener gives other pixels"):
        export(learn, tmp_path/'b', goldens=nines)

@pytest.mark.parametrize('what', ['nowhere.jpg', 'page.jpg'])
def test_files_that_are_no_images(files, tmp_path, what):
    "One line, whoever opens them first."
    (tmp_path/'page.jpg').write_text('<html>not found</html>', encoding='utf-8')
    learn = block_learner(files)
    with pytest.raises(fd.ImageError, match=what): export(learn, tmp_path/'b', goldens=[tmp_path/what])
    bundle = export(learn, tmp_path/'b', goldens=1)
    with pytest.raises(fd.ImageError, match=what): fd.verify(bundle, learn, items=[tmp_path/what])

def test_decoded_answers_are_compared(files, tmp_path):
    "Where `learn.predict` tells another value than the raw one, a proof that slipped through capture fails."
    learn = number(files, lambda p: float(value(p)))
    bundle = export(learn, tmp_path/'b', goldens=2)
    plain = learn.predict
    def doubled(x):
        told, decoded, raw = plain(x)
        return fv.TitledTuple(2*o for o in np.atleast_1d(told)), decoded, raw
    learn.predict = doubled
    with pytest.raises(fd.ParityError) as e: fd.verify(bundle, learn, items=files[:3], progress=False)
    assert e.value.stage == 'answer'

def test_random_state(files, tmp_path):
    "An export draws no random numbers of the user's."
    learn = block_learner(files)
    torch.manual_seed(1), np.random.seed(1), fv.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), fv.random.getstate()
    export(learn, tmp_path/'b', goldens=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), fv.random.getstate()) == before[1:]

def test_turned_images(files, tmp_path):
    learn = block_learner(files, fv.ImageBlock(Upright))
    bundle = export(learn, tmp_path/'b', goldens=2)
    model = fd.load(bundle)
    assert model.spec.input.exif and 'EXIF' in model.spec.pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[0]).convert('RGB').resize((60, 33)).save(tmp_path/'turned.jpg', exif=exif)
    same_answers(model, learn, [tmp_path/'turned.jpg', files[1]])
    with learn.no_bar(), learn.no_logging(): want = learn.predict(tmp_path/'turned.jpg')[2].numpy()
    assert np.abs(model.predict(tmp_path/'turned.jpg', exif=False).probs - want).max() > 1e-4
    assert fd.verify(bundle, learn, items=[tmp_path/'turned.jpg', *files[:3]], progress=False).ok

# --- no images

def test_from_a_pickle_without_images(files, tmp_path):
    "The README's own lines: export, then verify. The drawn images carry the proof."
    learn = reloaded(block_learner(files), tmp_path)
    bundle, words = said(partial(fd.export, progress=False), learn, tmp_path/'b')
    assert 'goldens=[paths]' in words
    parity = fd.verify(bundle)
    assert parity.ok and parity.pictures == 3 and all(g.drawn for g in fd.load(bundle).goldens())
    assert fd.verify(bundle, learn, items=files[:3], progress=False).ok

@pytest.mark.parametrize('size, pixels', [((32, 32), True), ((1100, 1030), False)])
def test_no_resize(files, tmp_path, size, pixels):
    "Where no transform resizes, the drawn images have the size that the net takes, however large that is."
    for i, p in enumerate(files[:16]): Image.open(p).resize(size).save(tmp_path/f'{i}.png')
    dls = block_learner(fv.get_image_files(tmp_path), item=fv.ToTensor(), get_y=lambda p: int(p.stem)%2).dls
    learn = fv.Learner(dls, Small(n=2), loss_func=fv.CrossEntropyLossFlat())
    bundle = export(learn, tmp_path/'b', goldens=2, pixels=pixels)
    assert fd.verify(bundle).pictures == 5
    assert {g.image.size for g in fd.load(bundle).goldens()} == {size}

@pytest.mark.parametrize('cls', [fv.PILImage, fv.PILImageBW])
def test_drawn_images_are_the_same_everywhere(digits_bundle, files, tmp_path, cls):
    "In every bundle of a mode, byte for byte."
    from fastai_deploy.learner.export import drawn_images
    want = drawn_images('L' if cls is fv.PILImageBW else 'RGB')
    learn = fv.Learner(dataloaders(files, fv.CategoryBlock, fv.parent_label, partial(fv.ImageBlock, cls), batch=[]),
                       Small(1 if cls is fv.PILImageBW else 3), loss_func=fv.CrossEntropyLossFlat())
    for b in [export(learn, tmp_path/'b', goldens=0), *([digits_bundle] if cls is fv.PILImage else [])]:
        got = {g.name: g.image.tobytes() for g in fd.load(b).goldens() if g.drawn}
        assert got == {k: im.tobytes() for k, im in want.items()}
