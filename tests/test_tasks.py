"Every task, and whatever fastai lets you do to a Learner: the same bundle, or a refusal; and a proof that can fail."
import json, os, re, sys, warnings
from functools import partial

import numpy as np
import pytest
from apps import corners, ink
from conftest import ROOT, refused, resealed, said
from PIL import Image

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
import onnxruntime as ort
import timm
import torch
from fastai_deploy.samples.digits import digit_names, digits
from fastai_deploy.learner.verify import valid_items
from torch import nn

# --- Learners on the digits, trained for a moment

norm = partial(fv.Normalize.from_stats, *fv.imagenet_stats, cuda=False)

@pytest.fixture(scope='session')
def files():
    "Some of the digits, of all classes."
    return sorted(digits().rglob('*.jpg'))[::40]

def value(p): return digit_names.index(p.parent.name)

CODES = ['paper', 'ink', 'dark']   # three, as many as an image has colours

def mask(p):
    dark = np.asarray(Image.open(p).convert('L')) < 60
    return fv.PILMask.create(ink(p).astype(np.uint8) + (ink(p) & dark))
def facts(p): return [n for n, ok in dict(even=value(p) % 2 == 0, big=value(p) > 5).items() if ok]

def dataloaders(files, target, get_y, image=fv.ImageBlock, item=fv.Resize(32), batch=norm(), **kwargs):
    "DataLoaders for a target, or for a tuple of blocks."
    blocks = image, *(target if isinstance(target, tuple) else (target,))
    kwargs = dict(splitter=fv.RandomSplitter(seed=0), item_tfms=item, batch_tfms=batch) | kwargs
    block = fv.DataBlock(blocks, get_items=lambda _: files, get_y=get_y, **kwargs)
    return block.dataloaders(None, bs=8, num_workers=0)

def fit(learn):
    "A few steps, so that weights and statistics are nobody's defaults."
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 3e-3)
    return learn

def make(files, task, **kwargs):
    fv.set_seed(0, reproducible=True)
    block, get_y, how = dict(
        classification=(fv.CategoryBlock, fv.parent_label, {}),
        multilabel=(fv.MultiCategoryBlock, facts, dict(loss_func=fv.BCEWithLogitsLossFlat(thresh=.4))),
        regression=(fv.RegressionBlock(n_out=2), lambda p: [float(value(p)), ink(p).mean()], {}),
        points=(fv.PointBlock, lambda p: torch.tensor(corners(p)).float(), dict(y_range=(-1, 1))),
        segmentation=(fv.MaskBlock(CODES), mask, {}),
        image_to_image=(fv.ImageBlock, lambda p: p, dict(n_out=3, loss_func=fv.MSELossFlat())))[task]
    dls = dataloaders(files, block, get_y, **kwargs)
    if task in ('segmentation', 'image_to_image'):
        return fit(fv.unet_learner(dls, partial(timm.create_model, 'test_resnet'), pretrained=False, **how))
    return fit(fv.vision_learner(dls, 'test_resnet', pretrained=False, lin_ftrs=[16], **how))

TASKS = 'classification multilabel regression points segmentation image_to_image'.split()

@pytest.fixture(scope='session')
def tasks(files, tmp_path_factory):
    "task → (Learner, bundle), made when first asked for."
    out, made = tmp_path_factory.mktemp('tasks'), {}
    def get(task):
        if task not in made:
            learn = make(files, task)
            made[task] = learn, fd.export(learn, out/task, goldens=3, progress=False)
        return made[task]
    return get

# --- each task

@pytest.mark.parametrize('task', TASKS)
def test_same_as_learn_predict(tasks, task):
    learn, bundle = tasks(task)
    parity = fd.verify(bundle, learn, store=False, progress=False)
    assert parity.ok and parity.pictures == len(learn.dls.valid_ds)
    assert parity.task == task == fd.load(bundle).spec.task
    assert [s.worst for s in parity.stages[:2]] == [0, 0]

OUTSIDE = '''
import json, sys
sys.modules.update(dict.fromkeys(['fastai', 'fastcore', 'torch', 'torchvision', 'timm', 'onnx']))   # None: not there
import fastai_deploy as fd
res = {}
for b in sys.argv[1:]:
    m = fd.load(b)
    res[m.spec.task] = [fd.verify(b).ok, [m.predict(g.image).to_dict() for g in m.goldens()]]
print(json.dumps(res))
'''

def test_goldens_without_fastai_and_torch(tasks):
    "The proof of each task replays in a process where neither can be imported; the answers are JSON."
    bundles = [tasks(t)[1] for t in TASKS]
    out = said(sys.executable, '-c', OUTSIDE, *bundles, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    there = json.loads(out.splitlines()[-1])
    assert list(there) == TASKS
    for t, b in zip(TASKS, bundles):
        model = fd.load(b)
        assert there[t][0] is True
        assert there[t][1] == [json.loads(json.dumps(model.predict(g.image).to_dict())) for g in model.goldens()]

@pytest.mark.parametrize('task', ['segmentation', 'image_to_image'])
@pytest.mark.parametrize('n', [1, 3])
def test_unet_in_batches(tasks, task, n):
    "The graph's batch size is free: one image or three, as torch answers."
    learn, bundle = tasks(task)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(n)).to(torch.uint8)
    got, = ort.InferenceSession(bundle/'model.onnx').run(None, {'image': x.numpy()})
    with torch.no_grad(): want = learn.model.cpu().eval()(norm()(fv.TensorImage(x.float()/255)))
    if task == 'segmentation': want = want.softmax(1)
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5*max(1, float(want.abs().max())))

# --- a proof that can fail

def _threshold(spec): spec.output.threshold = .9999
def _resample(spec): spec.item[0]['resample'] = 'nearest'
def _size(spec): spec.batch.append(dict(op='affine', size=[16, 16], mode='bilinear', pad_mode='reflection',
                                        align_corners=True))
def _mean(spec): spec.batch[-1]['mean'] = [0.5, 0.5, 0.5]
def _squish(spec): spec.item[0]['method'] = 'squish'

SPOILT = {'a threshold': ('multilabel', _threshold, 'answer'), 'resampling of points': ('points', _resample, 'item'),
          'a size': ('points', _size, 'answer'), 'the mean of an image': ('image_to_image', _mean, 'answer'),
          'a mask that is squished': ('segmentation', _squish, 'item')}

@pytest.mark.parametrize('what', SPOILT)
def test_spoilt_spec(tasks, tmp_path, what):
    task, change, stage = SPOILT[what]
    learn, bundle = tasks(task)
    bad = resealed(bundle, tmp_path/'bad', change=change)
    with pytest.raises(fd.ParityError) as e: fd.verify(bad, learn, store=False, progress=False)
    assert e.value.stage == stage
    with pytest.raises(fd.ParityError) as e: fd.verify(bad)   # its own goldens find out, too
    assert e.value.stage == stage

@pytest.mark.parametrize('task', TASKS)
def test_spoilt_net(tasks, tmp_path, task):
    "Another net's weights: the stage `net`, whatever the task."
    learn, bundle = tasks(task)
    with torch.no_grad():
        weights = [p for p in learn.model.parameters() if p.ndim > 1][-1]
        kept = weights.clone()
        weights.mul_(1.01)
    try:
        with pytest.raises(fd.ParityError) as e: fd.verify(bundle, learn, store=False, progress=False)
        assert e.value.stage == 'net'
    finally:
        with torch.no_grad(): weights.copy_(kept)
    assert fd.verify(bundle, learn, valid_items(learn, 2), store=False, progress=False).ok

def test_swapped_codes(tasks, files):
    "A graph whose classes are in another order than the Learner's: found in the class maps."
    learn, bundle = tasks('segmentation')
    model = fd.load(bundle)
    run = model.run
    def swapped(*args, **kwargs):
        res = run(*args, **kwargs)
        return [o[:, ::-1] if o.ndim == 4 and o.shape[1] == len(CODES) else o for o in res]
    model.run = swapped
    with pytest.raises(fd.ParityError): fd.verify(model, learn, files[:2], store=False, progress=False)

# --- whatever was done to the Learner, the same bundle

def reloaded(learn, tmp_path):
    "The Learner as `load_learner` gives it: without images."
    learn.path = tmp_path
    learn.export('l.pkl')
    return fv.load_learner(tmp_path/'l.pkl')

LIVES = {    # what may be done to a Learner; it stays the same one
    'frozen': lambda l: l.freeze(), 'unfrozen': lambda l: l.unfreeze(),
    'half precision': lambda l: l.to_fp16(), 'back from half precision': lambda l: l.to_fp16().to_fp32(),
    'channels last': lambda l: l.to_channelslast(), 'in training mode': lambda l: l.model.train(),
    'DataParallel': lambda l: setattr(l, 'model', nn.DataParallel(l.model)),
    'MixUp and other callbacks': lambda l: l.add_cbs([fv.MixUp(), fv.GradientClip(), fv.SaveModelCallback()])}

@pytest.mark.parametrize('life', [*LIVES, 'load_learner'])
def test_all_the_same_bundle(tasks, files, tmp_path, life):
    "Spec and answers of the bundle are those of the plain Learner's."
    learn, bundle = tasks('multilabel')
    fresh = fv.vision_learner(dataloaders(files, fv.MultiCategoryBlock, facts), 'test_resnet', pretrained=False,
                              lin_ftrs=[16], loss_func=fv.BCEWithLogitsLossFlat(thresh=.4))
    fresh.model.load_state_dict(learn.model.state_dict())
    if life == 'load_learner': fresh = reloaded(fresh, tmp_path)
    else: LIVES[life](fresh)
    other = fd.export(fresh, tmp_path/'b', goldens=valid_items(learn, 3), progress=False)
    a, b = fd.load(bundle), fd.load(other)
    same = lambda m: (m.spec.item, m.spec.batch, m.spec.net, m.spec.output, m.spec.input, m.spec.task, m.vocab)
    assert same(a) == same(b)
    assert (bundle/'weights.safetensors').read_bytes() == (other/'weights.safetensors').read_bytes()
    for p in files[:6]: np.testing.assert_array_equal(a.predict(p).probs, b.predict(p).probs)

# --- other images, other vocabs

class PILImageRGBA(fv.PILImage):
    _open_args = dict(mode='RGBA')

@pytest.mark.parametrize('cls, channels', [(fv.PILImageBW, 1), (PILImageRGBA, 4)])
def test_channels(files, tmp_path, cls, channels):
    stats = fv.Normalize.from_stats([.4, .5, .6, .7][:channels], [.2, .25, .3, .35][:channels], cuda=False)
    fv.set_seed(0, reproducible=True)
    dls = dataloaders(files, fv.CategoryBlock, fv.parent_label, partial(fv.ImageBlock, cls), batch=stats)
    learn = fit(fv.vision_learner(dls, 'test_resnet', pretrained=False, n_in=channels, normalize=False))
    bundle = fd.export(learn, tmp_path/'b', goldens=2, progress=False)
    assert fd.load(bundle).spec.input.channels == channels
    assert fd.verify(bundle, learn, valid_items(learn, 8), progress=False).ok

VOCABS = {
    'add_na': (partial(fv.CategoryBlock, add_na=True), fv.parent_label, ['#na#', *sorted(digit_names)]),
    'unsorted': (partial(fv.CategoryBlock, vocab=digit_names, sort=False), fv.parent_label, digit_names),
    'integers': (fv.CategoryBlock, value, [str(o) for o in range(10)]),
    'encoded already': (partial(fv.MultiCategoryBlock, encoded=True, vocab=['even', 'big']),
                        lambda p: [int(value(p) % 2 == 0), int(value(p) > 5)], ['even', 'big'])}

@pytest.mark.parametrize('name', VOCABS)
def test_vocab(files, tmp_path, name):
    block, get_y, want = VOCABS[name]
    fv.set_seed(0, reproducible=True)
    learn = fit(fv.vision_learner(dataloaders(files, block(), get_y), 'test_resnet', pretrained=False))
    bundle = fd.export(learn, tmp_path/'b', goldens=2, progress=False)
    assert fd.load(bundle).vocab == want
    assert fd.verify(bundle, learn, valid_items(learn, 8), progress=False).ok

# --- what a bundle cannot be

def plain(dls): return fv.Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)),
                                  loss_func=fv.CrossEntropyLossFlat())

def not_exported(learn, tmp_path, contains):
    "Refused in one line, and nothing is left behind."
    with refused(fd.UnsupportedError, contains): fd.export(learn, tmp_path/'b', progress=False)
    assert not (tmp_path/'b').exists()

def test_two_inputs_refused(files, tmp_path):
    dls = dataloaders(files, (fv.ImageBlock, fv.CategoryBlock), fv.parent_label, n_inp=2,
                      get_x=[lambda p: p, lambda p: files[0]])
    not_exported(plain(dls), tmp_path, '2 inputs')

def test_siamese_refused(files, tmp_path):
    "fastai's own siamese tutorial: a transform of the user's that makes both images."
    class Pairs(fv.Transform):
        def open(self, p): return fv.PILImage(fv.PILImage.create(p).resize((32, 32)))
        def encodes(self, p): return self.open(p), self.open(p), fv.TensorCategory(value(p))
    lists = fv.TfmdLists(files, Pairs(), splits=fv.RandomSplitter(seed=0)(files))
    dls = lists.dataloaders(bs=4, num_workers=0, after_item=[fv.ToTensor()], after_batch=[fv.IntToFloatTensor()])
    not_exported(plain(dls), tmp_path, 'TfmdLists')

def test_two_targets_refused(files, tmp_path):
    dls = dataloaders(files, (fv.CategoryBlock, fv.RegressionBlock), [fv.parent_label, lambda p: float(value(p))],
                      n_inp=1)
    not_exported(plain(dls), tmp_path, 'targets')

def test_opaque_says_so(files, tmp_path):
    "A net of one's own is exported as it is; the warning says what is lost."
    learn = plain(dataloaders(files, fv.CategoryBlock, fv.parent_label))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        bundle = fd.export(learn, tmp_path/'b', goldens=2, progress=False)
    assert any('weights.safetensors' in str(o.message) for o in said)
    assert fd.verify(bundle, learn, valid_items(learn, 5), progress=False).ok

# --- names given at the export, and what is left out

NAMES = dict(multilabel={'even': 'gerade', 'big': 'groß'}, segmentation={'ink': 'Tinte'},
             classification={'six': 'sechs'})

@pytest.mark.parametrize('task', NAMES)
def test_names(tasks, task, tmp_path):
    "The bundle says the new names, the proof still compares with what fastai says, with and without the Learner."
    learn, bundle = tasks(task)
    names, items = NAMES[task], valid_items(learn, 6)
    new = fd.export(learn, tmp_path/'new', goldens=3, names=names, progress=False)
    old, model = fd.load(bundle), fd.load(new)
    assert model.vocab == [names.get(o, o) for o in old.vocab] and model.spec.output.names == names
    assert fd.verify(new, learn, items).ok and fd.verify(new).ok
    for x in items:
        a, b = old.predict(x), model.predict(x)
        np.testing.assert_array_equal(a.decided, b.decided)
        if task == 'classification': assert b.label == names.get(a.label, a.label)
        if task == 'multilabel': assert b.labels == [names.get(o, o) for o in a.labels]

def test_names_are_proven(tasks, tmp_path):
    "A bundle whose names do not belong to the classes is not the Learner's."
    learn, _ = tasks('classification')
    bundle = fd.export(learn, tmp_path/'b', goldens=2, names={'six': 'sechs'}, progress=False)
    resealed(bundle, tmp_path/'c', change=lambda spec: setattr(spec.output, 'names', {'six': 'sieben'}))
    six = [x for x in valid_items(learn) if learn.predict(x)[0] == 'six'][:1]
    with pytest.raises(fd.ParityError, match='answers differ'): fd.verify(tmp_path/'c', learn, six, store=False)
    with pytest.raises(fd.UnsupportedError, match='none at all'):
        fd.export(tasks('regression')[0], tmp_path/'d', names={'six': 'sechs'}, progress=False)

def test_less(tasks, tmp_path):
    "Weights, goldens and pixels.onnx are left out if asked; the rest is proven and works."
    learn, _ = tasks('classification')
    less = fd.export(learn, tmp_path/'b', goldens=False, weights=False, pixels=False, progress=False)
    assert {*fd.open_bundle(less).spec.files} == {'model.onnx', 'vocab.txt', 'parity.json'}
    assert fd.load(less).predict(valid_items(learn, 1)[0]).label in learn.dls.vocab
    assert fd.verify(less, learn, valid_items(learn, 3)).ok
    with pytest.raises(fd.ParityError, match='no goldens'): fd.verify(less)

def test_says_what_travels(tasks, tmp_path):
    "How many of one's images are in a bundle, from where, and how to choose others."
    learn, said = tasks('classification')[0], []
    fd.export(learn, tmp_path/'a', goldens=2, progress=said.append)
    words = r'2 of your images travel .*\(from \S*digits, up to \d+x\d+ pixels\).*goldens=\[paths\]'
    assert re.search(words, said[-1]), said
    fd.export(learn, tmp_path/'b', goldens=0, progress=said.append)
    assert 'of your images' not in said[-1]
