"A task that nobody foresaw, added from outside: captured, proven, run, written and shown without touching a module."
import json, shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

fv = pytest.importorskip('fastai.vision.all')
import torch
from torch import nn

import fastai_deploy as fd
from fastai_deploy.learner.target import TARGETS, TargetType
from fastai_deploy.run.tasks import TASKS, Task
from fastai_deploy.run.write_bundle import update_bundle
from fastai_deploy.serving.cli import main
from fastai_deploy.serving.demo import answer as demo_answer, demo_page
from fastai_deploy.serving.programs import copy_app

# --- the run side: how many of the steps were reached

class Reached(NamedTuple):
    "How far the net says that it goes."
    steps: int
    decided: np.ndarray
    probs: np.ndarray
    def to_dict(self): return dict(steps=self.steps)
    def __str__(self): return f'{self.steps} steps'

class Answer(Reached):
    "A tuple cannot hold what `decode_answer` adds; its child can."

class Ordinal(Task):
    "A scale: each output says whether its step was reached."
    name, output, shape, decides, numbers_are = 'ordinal', 'steps', '[steps]', 'scales', 'probabilities'
    def decode(self, spec, a, vocab):
        return Answer(int((a > .5).sum()), np.array([(a > .5).sum()]), a)
    def label(self, answer):
        return str(answer.steps)
    def undecided(self, spec, a, within):
        return np.array([(np.abs(a - .5) <= within).any()])
    def columns(self, spec, vocab, k=1):
        return ['steps']
    def cells(self, answer, k=1):
        return [answer.steps]
    def facts(self, spec, vocab):
        return f'up to {spec.output.shape[0]} steps'
    def does(self, spec, names):
        return 'measures on a scale'

# --- the learner side

class ToSteps(fv.Transform):
    "3 of 5 becomes 1 1 1 0 0."
    def encodes(self, n: int): return (torch.arange(5) < n).float()

class StepLoss(nn.BCEWithLogitsLoss):
    def activation(self, x): return torch.sigmoid(x)
    def decodes(self, x): return (x > .5).sum(1)

class OrdinalTarget(TargetType):
    made_by, loss = (ToSteps,), 'StepLoss()'
    def decodes(self, x, threshold=None):
        return (x > .5).sum(1)
    def told(self, target, decoded, raw, name):
        return raw, str(int(decoded)), np.array([int(decoded)])

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Twelve bright and dark images."
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for i in range(12):
        noise = rng.integers(0, 40 + 17*i, (40 + i, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder/f'{i}.png')
    return folder

def learner(photos):
    "A Learner that was not told what it is."
    block = fv.DataBlock((fv.ImageBlock, fv.TransformBlock(type_tfms=[ToSteps()])), get_items=fv.get_image_files,
                         get_y=lambda p: int(p.stem)//2, splitter=fv.RandomSplitter(seed=1), item_tfms=fv.Resize(32))
    fv.set_seed(0)
    dls = block.dataloaders(photos, bs=4, num_workers=0)
    return fv.vision_learner(dls, 'test_resnet', pretrained=False, n_out=5, loss_func=StepLoss())

@pytest.fixture(scope='module')
def made(photos, tmp_path_factory):
    "The Learner and its bundle, while the task is known."
    with pytest.MonkeyPatch.context() as m:
        m.setitem(TASKS, 'ordinal', Ordinal())
        m.setitem(TARGETS, 'ordinal', OrdinalTarget())
        learn = learner(photos)
        yield learn, fd.export(learn, tmp_path_factory.mktemp('made')/'bundle')

def test_without_it_the_learner_is_refused(photos, tmp_path):
    with pytest.raises(fd.UnsupportedError, match='ToSteps'): fd.export(learner(photos), tmp_path/'x')

def test_everywhere(made, photos, tmp_path, capsys):
    learn, bundle = made
    with learn.no_bar(): _, decoded, probs = learn.predict(photos/'3.png')
    model = fd.load(bundle)
    got = model.predict(photos/'3.png')
    assert (got.steps, model.spec.task) == (int(decoded), 'ordinal')
    np.testing.assert_allclose(got.probs, probs.numpy(), atol=1e-5)
    assert fd.load(bundle, engine='pixels').predict(photos/'3.png').steps == got.steps

    report = fd.verify(bundle, learn)                                     # the proof, from fastai, pixels and goldens
    assert report.ok and 'scales equal' in str(report) and fd.verify(bundle).ok
    assert fd.Parity.from_json(model.bundle.read('parity.json')).task == 'ordinal'

    file = str(photos/'3.png')                                            # the command line
    assert main(['predict', str(bundle), file]) == 0 and f'{got.steps} steps' in capsys.readouterr().out
    assert main(['predict', str(bundle), file, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['steps'] == got.steps
    assert main(['predict', str(bundle), file, '--csv']) == 0
    assert capsys.readouterr().out.splitlines() == ['path,steps,error', f'{file},{got.steps},']
    assert main(['info', str(bundle)]) == 0 and 'ordinal, up to 5 steps' in capsys.readouterr().out
    assert main(['predict', str(bundle), file, '--topk', '2']) == 1
    assert 'classification and multilabel, and this bundle is for ordinal' in capsys.readouterr().err

    assert demo_answer(model, file) == f'{got.steps} steps'               # the demo, and a program beside it
    pytest.importorskip('gradio')
    assert 'measures on a scale' in json.dumps(demo_page(model, learn).get_config_file())
    copy_app('node', bundle, tmp_path/'node')

def test_a_forged_one_is_found(made, tmp_path):
    "The proof of the new task can fail."
    bundle = Path(shutil.copytree(made[1], tmp_path/'bundle'))
    goldens = json.loads((bundle/'golden'/'golden.json').read_text())
    for o in goldens: o['decided'] = [o['decided'][0] + 1]
    update_bundle(fd.open_bundle(bundle), {'golden/golden.json': json.dumps(goldens).encode()})
    with pytest.raises(fd.ParityError, match='answer'): fd.load(bundle)

def test_unknown_without_it(made, monkeypatch):
    "Where nobody added it, its bundle is refused by name."
    monkeypatch.delitem(TASKS, 'ordinal')
    with pytest.raises(fd.BundleError, match="task 'ordinal' is not known here"): fd.load(made[1])
