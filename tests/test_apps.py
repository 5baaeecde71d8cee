"The programs in other languages, as they are copied; `make apps` builds and runs them."
import json, shutil, subprocess
from pathlib import Path

import pytest

from fastai_deploy import BundleError, FastaiDeployError, load, open_bundle, verify
from fastai_deploy.serving.programs import app_names, copy_app

APPS = Path(__file__).resolve().parent.parent/'apps'
KEYS = {'about', 'needs', 'decoder', 'debian', 'build', 'run', 'test'}

def test_names(): assert app_names() == ['cpp', 'java', 'node', 'web']

@pytest.mark.parametrize('name', app_names())
def test_copy(name, digits_bundle, tmp_path):
    about = copy_app(name, digits_bundle, tmp_path/'my app')
    assert KEYS <= about.keys() and all(about[k] for k in KEYS)
    assert (tmp_path/'my app'/'README.md').is_file()
    assert open_bundle(tmp_path/'my app'/'bundle').vocab() == open_bundle(digits_bundle).vocab()
    git = subprocess.run(['git', 'ls-files', '.'], cwd=APPS/name, capture_output=True, text=True)
    if not (tracked := git.stdout.splitlines()): pytest.skip('no git here')
    copied = {p.relative_to(tmp_path/'my app').as_posix() for p in (tmp_path/'my app').rglob('*') if p.is_file()}
    assert {o for o in copied if not o.startswith('bundle/')} == set(tracked)

def test_only_what_it_needs(digits_bundle, tmp_path):
    "The copied bundle is one of its own: without the other graph, the weights and the proof, with all the goldens."
    copy_app('java', digits_bundle, tmp_path/'app')
    was, now = open_bundle(digits_bundle), open_bundle(tmp_path/'app'/'bundle')
    assert set(was.spec.files) - set(now.spec.files) == {'model.onnx', 'weights.safetensors', 'parity.json'}
    there = {p.relative_to(now.path).as_posix() for p in now.path.rglob('*') if p.is_file()}
    assert there == {'bundle.json', *now.spec.files}
    assert load(now.path, engine='pixels').predict(was.path/'golden'/'0.png').to_dict() == \
        load(was.path, engine='pixels').predict(was.path/'golden'/'0.png').to_dict()
    assert verify(now.path, engine='pixels', store=False).ok
    with pytest.raises(BundleError, match='no model.onnx in this bundle'): load(now.path)

def test_zip(digits_bundle, tmp_path):
    copy_app('cpp', shutil.make_archive(str(tmp_path/'digits'), 'zip', digits_bundle), tmp_path/'app')
    assert open_bundle(tmp_path/'app'/'bundle')

def test_refused(digits_bundle, tmp_path):
    "A folder that is there is not touched, and nothing is left behind."
    (tmp_path/'mine').mkdir()
    with pytest.raises(FastaiDeployError, match='is there already'): copy_app('node', digits_bundle, tmp_path/'mine')
    with pytest.raises(FastaiDeployError, match='only for cpp, java'): copy_app('cobol', digits_bundle, tmp_path/'new')
    shutil.copytree(digits_bundle, tmp_path/'old')
    spec = json.loads((tmp_path/'old'/'bundle.json').read_text(encoding='utf-8'))
    del spec['files']['pixels.onnx'], spec['pixels']
    (tmp_path/'old'/'pixels.onnx').unlink()
    (tmp_path/'old'/'bundle.json').write_text(json.dumps(spec), encoding='utf-8')
    with pytest.raises(BundleError, match='no pixels.onnx there: export it again'):
        copy_app('node', tmp_path/'old', tmp_path/'new')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine', 'old']
