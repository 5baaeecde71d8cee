"Shared fixtures: one sample Learner and one bundle for the whole run. In CI a skipped test is a failed one."
import os, shutil, subprocess, sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from fastai_deploy.run.bundle import open_bundle
from fastai_deploy.run.write_bundle import write_bundle

ROOT = Path(__file__).resolve().parent.parent
PETS = ROOT.parent/'shared'/'pets'/'images'

def run_python():
    "The Python of the environment that has numpy, Pillow and onnxruntime, and nothing else of ours."
    d = ROOT/'.venv-run'
    py = d/'Scripts'/'python.exe' if os.name == 'nt' else d/'bin'/'python'
    if not py.exists(): pytest.skip('no run-side environment: python tools/env.py run')
    return py

def said(*cmd, **kw):
    "What a process prints, which must end well."
    kw = dict(capture_output=True, text=True, encoding='utf-8', timeout=300) | kw
    r = subprocess.run([*map(str, cmd)], **kw)
    assert r.returncode == 0, f'{r.returncode}: {r.stdout[-2000:]}{r.stderr[-4000:]}'
    return r.stdout

@contextmanager
def refused(error, match=None):
    "What is done inside is refused, in one line in which `match` is found."
    with pytest.raises(error, match=match) as e: yield e
    assert '\n' not in str(e.value)

def resealed(bundle, out, files=(), change=lambda spec: None):
    "A copy of a bundle with other files or another spec, sealed as if it were right."
    b = open_bundle(bundle)
    change(b.spec)
    return write_bundle(out, b.spec, {n: b.read(n) for n in b.spec.files} | dict(files))

def same_answers(model, learn, items, image=lambda p: p):
    "`model.predict` says what `learn.predict` says; `image`: what the Learner opens for an item."
    for p in items:
        with learn.no_bar(), learn.no_logging(): told, _, raw = learn.predict(p)
        got = model.predict(image(p))
        np.testing.assert_allclose(got[2], raw.numpy(), atol=1e-5*max(1, float(raw.abs().max())))
        assert getattr(got, 'labels', None) in (None, list(told)) and getattr(got, 'label', told) == told

def _skip_is_failure(rep, allowed=False):
    "In CI everything that a test needs is there, so a skip hides a hole."
    if os.environ.get('FASTAI_DEPLOY_CI') == '1' and rep.skipped and not allowed and not hasattr(rep, 'wasxfail'):
        why = rep.longrepr[2] if isinstance(rep.longrepr, tuple) else rep.longrepr
        rep.outcome, rep.longrepr = 'failed', f'skipped, which fails in CI: {why}'

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    res = yield
    _skip_is_failure(res.get_result(), allowed=item.get_closest_marker('may_skip') is not None)

@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    res = yield
    _skip_is_failure(res.get_result())

def _make_sample(folder):
    "Train the sample model once and export it, in a process of its own."
    code = ('import sys; from pathlib import Path; import fastai_deploy as fd\n'
            'from fastai_deploy.samples.train import train_digits\n'
            'out = Path(sys.argv[1]); learn = train_digits(); fd.export(learn, out/"digits", overwrite=True)\n'
            'learn.export(out.resolve()/"digits.pkl")')
    folder.mkdir()
    said(sys.executable, '-c', code, folder, cwd=ROOT, timeout=900)

@pytest.fixture(scope='session')
def once(tmp_path_factory, worker_id):
    "A function: (name, make) → the folder that `make` made once for all test processes."
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == 'master' else base.parent
    def _once(name, make):
        with FileLock(base/f'{name}.lock'):
            if not (done := base/f'{name}.done').exists():
                shutil.rmtree(base/name, ignore_errors=True)
                make(base/name)
                done.touch()
        return base/name
    return _once

@pytest.fixture(scope='session')
def sample(once):
    "Folder with `digits` (a bundle) and `digits.pkl` (its Learner), shared by all test processes."
    return once('sample', _make_sample)

@pytest.fixture(scope='session')
def digits_bundle(sample):
    "The sample model's bundle. Copy it before you change it."
    return sample/'digits'

@pytest.fixture(scope='session')
def digits_learner(sample):
    "The sample model's Learner (loaded anew: it has no data, only the pipeline and the net)."
    from fastai.learner import load_learner
    return load_learner(sample/'digits.pkl')

@pytest.fixture(scope='session')
def pets_images():
    "The real photos beside the checkout."
    files = sorted(PETS.glob('*.jpg'))
    if not files: pytest.skip('no ../shared/pets/images here')
    return files
