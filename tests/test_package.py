"What `import fastai_deploy` gives, and what it costs."
import json, sys

import pytest
from conftest import said

import fastai_deploy as fd

def python(code): return json.loads(said(sys.executable, '-c', code))

def test_import_is_light():
    "Nothing of ours, and nothing heavy, is imported before it is used."
    new = python('import sys; before = set(sys.modules); import fastai_deploy, json\n'
                 'print(json.dumps(sorted(set(sys.modules) - before)))')
    assert [o for o in new if o.startswith('fastai_deploy')] == ['fastai_deploy']
    assert not {o.split('.')[0] for o in new} & {'numpy', 'PIL', 'onnxruntime', 'torch', 'fastai', 'gradio'}

@pytest.mark.parametrize('name', ['load', 'verify', 'demo', 'open_bundle', 'Prediction', 'BundleError'])
def test_run_side_names(name):
    "These come without torch."
    seen = python(f'import sys, json, fastai_deploy as fd; f = fd.{name}\n'
                  'print(json.dumps([f.__name__, "torch" in sys.modules, "gradio" in sys.modules]))')
    assert seen == [name, False, False]

def test_every_name():
    for name in fd._home: assert getattr(fd, name).__name__ == name
    assert set(fd._home) <= set(dir(fd))
    with pytest.raises(AttributeError, match="no attribute 'exports'"): _ = fd.exports
    assert not hasattr(fd, '__wrapped__')

def test_errors_are_a_family():
    for name in dir(fd):
        if name.endswith('Error'): assert issubclass(getattr(fd, name), fd.FastaiDeployError)

def test_what_is_missing_is_named():
    "Without torch, `fd.export` says what to install, and that survives `from … import`."
    said = python('import sys, json; sys.modules["torch"] = None\n'
                  'import fastai_deploy as fd\n'
                  'try: from fastai_deploy import export\n'
                  'except fd.MissingExtraError as e: print(json.dumps(str(e)))')
    assert "torch: pip install 'fastai_deploy[export]'" in said
