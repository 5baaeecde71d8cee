"Targets and loss functions that are not fastai's own: the answer of `learn.predict`, or a refusal that says why."
import sys

import numpy as np
import pytest
import test_tasks
from conftest import ROOT, refused, said, same_answers
from test_tasks import dataloaders, fit, fv, mask, not_exported, plain, value

import fastai_deploy as fd
import onnx
import torch
import torch.nn.functional as F
from fastai.data.transforms import Categorize
from fastai_deploy.learner.export_pkl import load_learner
from fastai_deploy.learner.target import bare_model, find_target, find_task, net_shape
from fastai_deploy.learner.verify import valid_items
from torch import nn

files = test_tasks.files  # a fixture

def tiny(dls, n, *more, **kwargs):
    "A Learner for `n` outputs, trained for a moment."
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, n), *more)
    return fit(fv.Learner(dls, net, **kwargs))

def pixelwise(dls, n):
    return fit(fv.Learner(dls, nn.Conv2d(3, n, 3, padding=1), loss_func=fv.CrossEntropyLossFlat(axis=1)))

def exported(learn, out): return fd.load(fd.export(learn, out, goldens=2, progress=False, pixels=False))

# --- a target that is decoded

class Log(fv.Transform):
    "Learn a price as its logarithm."
    def encodes(self, o): return float(np.log(o))
    def decodes(self, o): return float(np.exp(o))

class Recode(fv.Transform):
    "Learn a mask whose classes are numbered otherwise."
    def encodes(self, o: fv.PILMask): return fv.PILMask(fv.Image.fromarray(2-np.asarray(o)))
    def decodes(self, o): return 2-o

class Halved(fv.Transform):
    "Numbers are half as large while it learns."
    order, split_idx = 99, 0
    def encodes(self, o: torch.Tensor): return o
    def decodes(self, o): return o*2

class Backwards(Categorize):
    def decodes(self, o): return super().decodes(o)[::-1]

def price(p): return 100. + 50*value(p)
def number(files, get_y=price, block=fv.RegressionBlock(n_out=1)): return tiny(dataloaders(files, block, get_y), 1)

def with_transform(learn, stage, t):
    getattr(learn.dls.train, stage).fs.append(t)
    return learn

DECODED = {
    'a logarithm': (lambda files: number(files, fv.Pipeline([price, Log()])), 'Log has a `decodes`'),
    'a logarithm in a block': (lambda files: number(files, price, fv.TransformBlock(
        type_tfms=[Log(), fv.RegressionSetup(c=1)])), 'Log has a `decodes`'),
    'two functions': (lambda files: number(files, fv.Pipeline([price, fv.Transform(np.log, np.exp)])), 'log has a'),
    'a mask': (lambda files: pixelwise(dataloaders(files, fv.MaskBlock(['a', 'b', 'c']), fv.Pipeline([mask, Recode()])),
                                       3), 'Recode has a `decodes`'),
    'in items': (lambda files: with_transform(number(files), 'after_item', Halved()), 'after_item: Halved has a'),
    'in batches': (lambda files: with_transform(number(files), 'after_batch', Halved()), 'after_batch: Halved has a'),
    'a Categorize of its own': (lambda files: plain(dataloaders(files, fv.TransformBlock(type_tfms=Backwards()),
                                                                fv.parent_label)), 'Backwards')}

@pytest.mark.parametrize('what', DECODED)
def test_decoded_target_refused(files, tmp_path, what):
    make, said = DECODED[what]
    not_exported(make(files), tmp_path, said)

def test_decodes_in_an_instance(files, tmp_path):
    learn = plain(dataloaders(files, fv.CategoryBlock, fv.parent_label))
    learn.dls.valid_ds.tls[1].tfms.fs[-1].decodes = lambda o: 'zero'
    not_exported(learn, tmp_path, r'Categorize has a .*del learn.dls.valid_ds.tls\[1\].tfms.fs\[1\].decodes')

def test_way_out_of_a_decoded_target(files, tmp_path):
    "As the message says: without its `decodes` learn.predict and the bundle answer the same, and the program decodes."
    class Own(fv.Transform):
        def encodes(self, o): return float(np.log(o))
        def decodes(self, o): return float(np.exp(o))
    learn = number(files, fv.Pipeline([price, Own()]))
    p = valid_items(learn, 1)[0]
    with learn.no_bar(): before = learn.predict(p)[0][0]
    not_exported(learn, tmp_path, r'del \S*Own.decodes')
    del Own.decodes
    answer = exported(learn, tmp_path/'b').predict(p).values[0]
    with learn.no_bar(): assert answer == pytest.approx(learn.predict(p)[0][0], abs=1e-5)
    assert np.exp(answer) == pytest.approx(before, rel=1e-5)

def test_harmless_target_transforms(files, tmp_path):
    "Functions without a way back, and a `decodes` that is for images only."
    class Shown(fv.Transform):
        order, split_idx = 99, 0
        def encodes(self, o: fv.TensorImage): return o
        def decodes(self, o: fv.TensorImage): return o/2
    learn = number(files, fv.Pipeline([price, np.log]))
    model = exported(with_transform(learn, 'after_batch', Shown()), tmp_path/'b')
    assert model.spec.task == 'regression' and fd.verify(model, learn, progress=False, store=False).ok

def test_targets_of_the_validation_set_are_not_asked(files):
    "A label that training has not seen is nobody's business here."
    known = set()
    def label(p):
        if known and p in known: raise KeyError('unseen')
        return p.parent.name
    learn = plain(dataloaders(files, fv.CategoryBlock, label))
    known.update(files)
    with pytest.raises(KeyError): learn.dls.valid_ds[0]
    assert find_target(learn, (10,)).task == 'classification'

# --- an activation or decoding of somebody's own

def loss(base=fv.CrossEntropyLossFlat, **methods): return type('Own', (base,), methods)()
def put(loss_func, **functions):
    vars(loss_func).update(functions)
    return loss_func

def unless_sure(self, x): return torch.where(x.amax(-1) > .5, x.argmax(-1), 0)

CLASSES = {
    'class 0 unless sure': loss(decodes=unless_sure),
    'one class needs more': loss(decodes=lambda s, x: torch.where((x[..., 7]-.25).abs() < .05, 0, x.argmax(-1))),
    'no narrow wins': loss(decodes=lambda s, x: torch.where(x.topk(2)[0].diff()[..., 0] > -.02, 0, x.argmax(-1))),
    'the last of equals': loss(decodes=lambda s, x: 9-x.flip(-1).argmax(-1)),
    'over the batch': fv.CrossEntropyLossFlat(axis=0),
    'softmax, of small outputs': loss(activation=lambda s, x: x.softmax(-1)*(x.abs().amax(-1) < 1e5)[:, None]),
    'softmax by hand, which overflows': loss(activation=lambda s, x: x.exp()/x.exp().sum(-1, keepdim=True)),
    'a temperature': put(fv.CrossEntropyLossFlat(), activation=lambda x: (x/1.01).softmax(-1)),
    'put into the instance': put(fv.CrossEntropyLossFlat(), decodes=lambda x: unless_sure(None, x))}
NUMBERS = {
    'within 20': loss(nn.MSELoss, activation=lambda s, x: x.clamp(-20, 20)),
    'within 1e30': loss(nn.MSELoss, decodes=lambda s, x: x.clamp(-1e30, 1e30)),
    'rounded': loss(nn.MSELoss, decodes=lambda s, x: x.round(decimals=4)),
    'tiny ones are zero': loss(nn.MSELoss, decodes=lambda s, x: x*(x.abs() > 1e-5)),
    'put into fastai\'s': put(fv.MSELossFlat(), decodes=lambda x: x.clamp(max=20))}

@pytest.fixture(scope='module')
def ten(files): return plain(dataloaders(files, fv.CategoryBlock, fv.parent_label))

@pytest.mark.parametrize('what', CLASSES)
def test_classes_refused(ten, tmp_path, what):
    ten.loss_func = CLASSES[what]
    not_exported(ten, tmp_path, 'loss function (Own|CrossEntropyLossFlat)')

@pytest.mark.parametrize('what', NUMBERS)
def test_numbers_refused(files, what):
    learn = fv.Learner(dataloaders(files, fv.RegressionBlock(n_out=1), price), nn.Flatten(), loss_func=NUMBERS[what])
    with refused(fd.UnsupportedError, 'loss function (Own|MSELossFlat)'): find_target(learn, (1,))

def test_patched_fastai_refused(ten, tmp_path, monkeypatch):
    monkeypatch.setattr(fv.CrossEntropyLossFlat, 'decodes', unless_sure)
    ten.loss_func = fv.CrossEntropyLossFlat()
    not_exported(ten, tmp_path, 'does not decode as classification')

@pytest.mark.parametrize('loss_func', [
    loss(activation=lambda s, x: F.softmax(x, -1), decodes=lambda s, x: x.max(-1)[1]), fv.FocalLossFlat(),
    loss(activation=lambda s, x: x.log_softmax(-1).exp()), fv.LabelSmoothingCrossEntropyFlat(), fv.DiceLoss()])
def test_classes_known(ten, loss_func):
    ten.loss_func = loss_func
    assert find_target(ten, (10,)).activation == 'softmax'

@pytest.mark.parametrize('axis', [-1, 1])
def test_axis_of_masks(files, axis):
    learn = pixelwise(dataloaders(files[:9], fv.MaskBlock(['a', 'b', 'c']), mask), 3)
    learn.loss_func = fv.CrossEntropyLossFlat(axis=axis)
    if axis == 1: assert find_target(learn, (3, 32, 32)).activation == 'softmax'
    else:
        with pytest.raises(fd.UnsupportedError, match='use axis=1'): find_target(learn, (3, 32, 32))

# --- several labels

def both(p): return [value(p)%2 == 0, value(p) > 5]

@pytest.fixture(scope='module')
def encoded(files):
    return tiny(dataloaders(files, fv.MultiCategoryBlock(encoded=True, vocab=['even', 'big']), both), 2)

def test_encoded(encoded, tmp_path):
    model = exported(encoded, tmp_path/'b')
    assert (model.spec.task, model.vocab) == ('multilabel', ['even', 'big'])
    same_answers(model, encoded, valid_items(encoded, 8))

THRESHOLDS = [torch.tensor(.45), torch.tensor([.45]), torch.tensor(.45, dtype=torch.float64), np.float32(.45),
              torch.tensor([.3], dtype=torch.float64), np.float64(.45)]

@pytest.mark.parametrize('thresh', THRESHOLDS, ids=repr)
def test_threshold(encoded, thresh):
    "Also of outputs exactly at the threshold, and next to it."
    encoded.loss_func = fv.BCEWithLogitsLossFlat(thresh=thresh)
    found = find_target(encoded, (2,)).threshold
    assert found == pytest.approx(float(thresh), abs=1e-7)
    at = np.float32(float(thresh))
    near = np.stack([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))])[None]
    assert (near > np.float32(found)).tolist() == encoded.loss_func.decodes(torch.tensor(near)).tolist()

def test_threshold_in_a_bundle(encoded, tmp_path):
    encoded.loss_func = fv.BCEWithLogitsLossFlat(thresh=torch.tensor([.45], dtype=torch.float64))
    model = exported(encoded, tmp_path/'b')
    assert model.spec.output.threshold == pytest.approx(.45)
    same_answers(model, encoded, valid_items(encoded, 8))

@pytest.mark.parametrize('thresh', [torch.tensor([.3, .4]), np.array([.3, .4]), 'half', float('nan'), None], ids=repr)
def test_no_threshold(encoded, tmp_path, thresh):
    encoded.loss_func = fv.BCEWithLogitsLossFlat(thresh=thresh)
    not_exported(encoded, tmp_path, 'set learn.loss_func')

def test_sigmoid_in_the_net(files, tmp_path):
    "BCELossFlat: what the message advises leads to a bundle that answers as learn.predict."
    dls = dataloaders(files, fv.MultiCategoryBlock(encoded=True, vocab=['even', 'big']), both)
    learn = tiny(dls, 2, nn.Sigmoid(), loss_func=fv.BCELossFlat())
    with pytest.raises(fd.UnsupportedError, match='BCELossFlat has no `thresh`') as e: fd.export(learn, tmp_path/'b')
    assert 'BCEWithLogits' not in str(e.value)
    advice = str(e.value).split(', set ')[1].removesuffix(' before the export')
    for line in advice.split(' and '): exec(line, dict(learn=learn))
    model = exported(learn, tmp_path/'b')
    assert (model.spec.output.activation, model.spec.output.threshold) == ('identity', .5)
    same_answers(model, learn, valid_items(learn, 8))

# --- names

def test_last_class_without_a_name(files, tmp_path):
    vocab = ['even', 'odd', '']
    dls = dataloaders(files, fv.CategoryBlock(vocab=vocab, sort=False), lambda p: vocab[value(p)%2] if value(p) else '')
    learn = tiny(dls, 3)
    bundle = fd.export(learn, tmp_path/'b', goldens=2, progress=False)
    for engine in ('model', 'pixels'):
        model = fd.load(bundle, engine=engine)
        assert model.vocab == vocab
        same_answers(model, learn, valid_items(learn, 8))
    assert (bundle/'vocab.txt').read_text(encoding='utf-8').splitlines() == vocab
    facts = {o.key: o.value for o in onnx.load(bundle/'pixels.onnx').metadata_props}
    assert facts['vocab'].splitlines() == vocab

# --- precision

@pytest.mark.parametrize('kind', ['half', 'double', 'bfloat16'])
def test_other_floats(files, tmp_path, kind):
    learn = plain(dataloaders(files, fv.CategoryBlock, fv.parent_label))
    getattr(learn.model, kind)()
    dtype = next(learn.model.parameters()).dtype
    not_exported(learn, tmp_path, rf'{dtype}.*learn.model.float\(\)')
    learn.model.float()
    assert find_target(learn, net_shape(bare_model(learn), 3, (32, 32))).task == 'classification'

def test_mixed_precision_is_no_other_float(ten, tmp_path):
    ten.loss_func = fv.CrossEntropyLossFlat()
    with ten.no_bar(): model = exported(ten.to_fp16(), tmp_path/'b')
    same_answers(model, ten.to_fp32(), valid_items(ten, 8))

# --- detection

@pytest.mark.parametrize('labels', [True, False])
def test_detection_refused(files, tmp_path, labels):
    "As detection, not with advice about a transform."
    box = fv.BBoxBlock if labels else fv.TransformBlock(type_tfms=fv.TensorBBox.create, item_tfms=fv.PointScaler)
    get_y = [lambda p: [[0., 0, 9, 9]], lambda p: ['ink']][:1+labels]
    learn = plain(dataloaders(files, (box, *[fv.BBoxLblBlock]*labels), get_y, n_inp=1))
    with refused(fd.UnsupportedError, '^(?!.*split_idx).*detection cannot be exported'): find_task(learn)
    not_exported(learn, tmp_path, '^(?!.*split_idx).*detection cannot be exported')

# --- what a pickle lacks

GONE = '''
from fastai.vision.all import *
class OurImage(PILImage): pass
class OurLoss(CrossEntropyLossFlat): pass
class OurItems(Transform):
    split_idx = 0
    def encodes(self, o:PILImage): return o
class OurNet(nn.Module):
    def __init__(self): super().__init__(); self.last = nn.Linear(3, 10)
    def forward(self, x): return self.last(x.mean((-1, -2)))
class OurCallback(Callback): pass
def our_label(p): return p.parent.name
def our_metric(pred, targ): return pred.argmax(1).eq(targ).float().mean()
'''
MAKE = '''
import sys
from gone import *
from functools import partial
from test_tasks import dataloaders, digits, plain
files = sorted(digits().rglob('*.jpg'))[::40]
for name in sys.argv[1:]:
    block = ImageBlock(OurImage) if name == 'OurImage' else ImageBlock
    learn = plain(dataloaders(files, CategoryBlock, our_label, block))
    if name == 'OurLoss': learn.loss_func = OurLoss()
    if name == 'OurItems': learn.dls.valid.after_item.add(OurItems())
    if name == 'OurNet': learn.model = OurNet()
    if name == 'OurCallback': learn.add_cb(OurCallback())
    if name == 'our_metric': learn.metrics = our_metric
    learn.path = Path('.').resolve()
    learn.export(f'{name}.pkl')
    learn.export(f'{name}.plain.pkl', pickle_module=pickle)
'''
LACKING = 'OurImage OurLoss OurItems OurNet OurCallback'.split()

@pytest.fixture(scope='module')
def pickles(tmp_path_factory):
    "Learners that need a module, which is then removed."
    folder = tmp_path_factory.mktemp('pickles')
    (folder/'gone.py').write_text(GONE, encoding='utf-8')
    (folder/'make.py').write_text(MAKE, encoding='utf-8')
    path = [str(o) for o in (folder, ROOT/'tests', *sys.path)]
    code = f'import sys; sys.path[:0] = {path!r}; sys.argv = ["make.py", *sys.argv[1:]]; exec(open("make.py").read())'
    said(sys.executable, '-c', code, *LACKING, 'our_metric', cwd=folder)
    (folder/'gone.py').unlink()
    return folder

@pytest.mark.parametrize('how', ['.pkl', '.plain.pkl'])
@pytest.mark.parametrize('name', LACKING)
def test_missing_class_is_named(pickles, name, how):
    with refused(fd.FastaiDeployError, f'needs gone.{name}, which is not here: call fd.export'):
        load_learner(pickles/f'{name}{how}')

@pytest.mark.parametrize('how', ['.pkl', '.plain.pkl'])
def test_missing_functions_do_not_matter(pickles, tmp_path, files, how):
    learn = load_learner(pickles/f'our_metric{how}')
    model = fd.load(fd.export(learn, tmp_path/'b', goldens=files[:2], progress=False, pixels=False))
    with learn.no_bar(): assert model.predict(files[3]).label == learn.predict(files[3])[0]
