"In the environment with the newest fastai and no nbdev: the sample model is trained, exported, verified and predicts."
import importlib.util, json, shutil
from importlib.metadata import version

import fastai.vision.all as fv
import matrix
import numpy as np
import PIL
import pytest
from conftest import ROOT, run_python, said, same_answers

import fastai_deploy as fd
from fastai_deploy.samples.train import train_digits

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    learn = train_digits()
    bundle = tmp_path_factory.mktemp('latest')/'digits'
    fd.export(learn, bundle)
    return learn, bundle

def test_environment():
    "The versions that this run is about, and no nbdev."
    assert version('fastai') == '2.8.12' and int(version('fastcore').split('.')[0]) >= 2
    assert importlib.util.find_spec('nbdev') is None

def test_verify(trained):
    learn, bundle = trained
    report = fd.verify(bundle, learn, items=list(learn.dls.valid_ds.items)[:100])
    print(report.table())

def test_predict(trained):
    learn, bundle = trained
    same_answers(fd.load(bundle), learn, list(learn.dls.valid_ds.items)[:10])

def test_squished_portraits(tmp_path):
    "Pillow 13 takes many tall images through its two passes the other way round: so does a bundle made here."
    rng = np.random.default_rng(0)
    for i in range(16): matrix.drawn(rng, *rng.integers((60, 180), (110, 320))).save(tmp_path/f'{i:02}.png')
    files = sorted(tmp_path.glob('*.png'))
    dls = fv.ImageDataLoaders.from_path_func(tmp_path, files, lambda f: 'ab'[int(f.stem) % 2], valid_pct=.5, bs=4,
                                             num_workers=0, item_tfms=fv.Resize(64, 'squish'))
    learn = fv.vision_learner(dls, 'test_resnet', pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    bundle = fd.export(learn, tmp_path/'bundle', progress=False)
    item, = json.loads((bundle/'bundle.json').read_text(encoding='utf-8'))['item']
    if int(PIL.__version__.split('.')[0]) >= 13: assert item['order'] == 'vertical_if_cheaper'
    for engine in ('model', 'pixels'): fd.verify(bundle, learn, items=files, engine=engine)

def test_a_wrong_bundle_is_refused(trained, tmp_path):
    "The proof can fail here too: two classes swapped."
    bad = shutil.copytree(trained[1], tmp_path/'bad')
    v = (bad/'vocab.txt').read_text(encoding='utf-8').splitlines()
    v[0], v[1] = v[1], v[0]
    (bad/'vocab.txt').write_text('\n'.join(v) + '\n', encoding='utf-8', newline='\n')
    with pytest.raises(fd.BundleError): fd.load(bad)

def test_outside(trained, tmp_path):
    o = json.loads(said(run_python(), '-I', ROOT/'tests'/'outside.py', trained[1], cwd=tmp_path).splitlines()[-1])
    assert o['labels_equal'] and o['golden_difference'] <= 1e-5 and not o['tried']
