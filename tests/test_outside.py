"The package from outside: built as a wheel, installed beside numpy, Pillow and onnxruntime alone, running a bundle."
import json, os, subprocess, sys, zipfile

import env as tools_env
import numpy as np
import pytest
from conftest import ROOT, run_python, said

MAY_BE_THERE = ('torch', 'torchvision', 'fastai', 'fastcore', 'timm', 'nbdev', 'onnx', 'onnxscript', 'safetensors')

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    from fastai_deploy.samples.digits import digits
    files = sorted(digits().rglob('*.jpg'))[::90]
    out = tmp_path_factory.mktemp('photos')
    for i, f in enumerate(files): (out/f'{i:03}.jpg').write_bytes(f.read_bytes())
    return out

@pytest.fixture(scope='module')
def outside(digits_bundle, photos):
    "What tests/outside.py says over there."
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    out = said(run_python(), '-I', ROOT/'tests'/'outside.py', digits_bundle, photos, cwd=photos, env=env)
    return json.loads(out.splitlines()[-1])

def test_environment_is_bare(outside):
    assert not set(MAY_BE_THERE) & set(outside['installed'])
    assert {'numpy', 'pillow', 'onnxruntime', 'fastai_deploy'} <= set(outside['installed'])

def test_whole_package_is_there(outside):
    files = [p.relative_to(ROOT).with_suffix('') for p in (ROOT/'fastai_deploy').rglob('*.py')]
    assert set(outside['modules']) == {'.'.join(p.parts) for p in files if p.name != '__init__'}

def test_nothing_heavy_is_imported(outside):
    assert outside['tried'] == [] and outside['loaded'] == []

def test_goldens(outside):
    assert outside['goldens'] >= 3 and outside['labels_equal'] and outside['golden_difference'] <= 1e-5

def test_same_as_the_learner(outside, digits_learner):
    "The Learner's own answers on the same images."
    assert len(outside['predictions']) >= 10
    with digits_learner.no_bar(), digits_learner.no_logging():
        for p in outside['predictions']:
            label, _, probs = digits_learner.predict(p['file'])
            np.testing.assert_allclose(np.array(p['probs'], dtype=np.float32), probs.numpy(), atol=1e-5)
            assert label == p['label']

def test_train_side_says_what_is_missing(digits_bundle, tmp_path):
    "There, `fd.export` is one readable error with the way out, not a traceback about torch."
    code = ('import fastai_deploy as fd\ntry: fd.export(None, "x")\n'
            'except ImportError as e: print(type(e).__name__, e)')
    out = said(run_python(), '-I', '-c', code, cwd=tmp_path)
    assert out.startswith('MissingExtraError') and 'fastai_deploy[export]' in out

def command(*args, cwd):
    "What the installed `fastai-deploy` command says."
    return said(run_python().parent/('fastai-deploy.exe' if os.name == 'nt' else 'fastai-deploy'), *args, cwd=cwd)

def test_command_line_there(digits_bundle, photos, tmp_path):
    "The installed `fastai-deploy` command answers too."
    assert json.loads(command('predict', digits_bundle, next(photos.glob('*.jpg')), '--json', cwd=tmp_path))

def test_app_command(digits_bundle, tmp_path):
    "The installed package has the programs in other languages inside."
    out = command('app', 'node', digits_bundle, '-o', 'my app', cwd=tmp_path)
    about = json.loads((tmp_path/'my app'/'app.json').read_text(encoding='utf-8'))
    assert out.splitlines()[-2:] == [about['build'], about['run']]

SETS = 'import fastai_deploy, os, sys; print(os.environ["ORT_DISABLE_TELEMETRY"], "onnxruntime" in sys.modules)'
CALLS = ('import onnxruntime as ort\ncalled, real = [], ort.disable_telemetry_events\n'
         'def watch(): called.append(1); real()\n'
         'ort.disable_telemetry_events = watch\nimport fastai_deploy\nprint(called)')

@pytest.mark.parametrize('own', [{}, {'ORT_DISABLE_TELEMETRY': '0'}], ids=['unset', 'set'])
@pytest.mark.parametrize('code, unset, asked', [(SETS, '1 False', '0 False'), (CALLS, '[1]', '[]')],
                         ids=['not there yet', 'there before us'])
def test_no_telemetry(own, code, unset, asked, tmp_path):
    "onnxruntime is told to collect nothing, if possible before it is loaded, unless the user has decided otherwise."
    env = {k: v for k, v in os.environ.items() if k != 'ORT_DISABLE_TELEMETRY'} | own
    assert said(run_python(), '-I', '-c', code, cwd=tmp_path, env=env).strip() == (asked if own else unset)

def test_wheel(tmp_path):
    "What a wheel holds: the modules and the schema, and the command."
    names = set(zipfile.ZipFile(tools_env.build_wheel(tmp_path)).namelist())
    have = {p.relative_to(ROOT).as_posix() for p in (ROOT/'fastai_deploy').rglob('*') if p.suffix in ('.py', '.json')}
    have |= {o.replace('apps/', 'fastai_deploy/_apps/', 1) for o in tools_env.app_files()}
    assert have == {o for o in names if o.startswith('fastai_deploy/')}
    assert any(o.endswith('.json') for o in have)
    assert any(o.endswith('entry_points.txt') for o in names) and any(o.endswith('LICENSE') for o in names)

def test_skips_are_failures_in_ci(pytester_project):
    "The switch that .ci/run sets turns a skip into a failure, unless the test says that it may."
    assert pytester_project(ci=False) == (1, 0, 2) and pytester_project(ci=True) == (1, 1, 1)

@pytest.fixture
def pytester_project(tmp_path):
    "Runs three tests under our conftest: one passes, one skips, one may skip. (passed, failed, skipped)."
    from check import counts
    (tmp_path/'conftest.py').write_text((ROOT/'tests'/'conftest.py').read_text(encoding='utf-8'), encoding='utf-8')
    (tmp_path/'test_x.py').write_text('import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip("no tool")\n'
                                      '@pytest.mark.may_skip\ndef test_c(): pytest.skip("fine")\n', encoding='utf-8')
    (tmp_path/'pytest.ini').write_text('[pytest]\nmarkers = may_skip: x\n', encoding='utf-8')
    def go(ci):
        env = dict(os.environ, FASTAI_DEPLOY_CI='1' if ci else '')
        subprocess.run([sys.executable, '-m', 'pytest', '-q', f'--junitxml={tmp_path/"j.xml"}', tmp_path], cwd=tmp_path,
                       env=env, capture_output=True)
        return counts(tmp_path/'j.xml')
    return go
