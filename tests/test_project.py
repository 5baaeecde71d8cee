"The project's structure: every rule holds here, and every rule refuses a small project that breaks it."
import base64, json, shutil, subprocess, sys
from pathlib import Path

import pytest, rules
from conftest import ROOT

@pytest.mark.parametrize('rule', rules.RULES, ids=lambda o: o.__name__)
def test_rule(rule):
    assert not (broken := [*rule(ROOT)]), '\n'.join(broken)

def nb(path, **sources):
    "Write a notebook: id -> source (a `_md` at the end of the id: Markdown), or a whole cell."
    def cell(i, s):
        if isinstance(s, dict): return s
        c = dict(cell_type='markdown' if i.endswith('_md') else 'code', id=i, metadata={},
                 source=s.splitlines(keepends=True))
        return c if i.endswith('_md') else {**c, 'execution_count': None, 'outputs': []}
    d = dict(cells=[cell(i, s) for i, s in sources.items()], nbformat=4, nbformat_minor=5,
             metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')))
    path.write_text(json.dumps(d, indent=1, sort_keys=True, ensure_ascii=False) + '\n', encoding='utf-8', newline='\n')

def code(source, out=None, id='x'):
    return dict(cell_type='code', id=id, metadata={}, execution_count=None, source=[source],
                outputs=[out] if out else [])

GOOD = dict(head_md='# A\n\n> a', exp='#| default_exp run.aa', imports='#| export\nimport json',
            fun='#| export\ndef fun(\n    x, # a number\n):\n    "Gives it back"\n    return x',
            test='assert fun(1)==1')

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "A small project that keeps every rule."
    from readme import render
    tmp_path = tmp_path_factory.mktemp('good')
    (tmp_path/'nbs'/'run').mkdir(parents=True)
    shutil.copy(ROOT/'settings.ini', tmp_path)
    for f in ('_quarto.yml', 'nbdev.yml'): shutil.copy(ROOT/'nbs'/f, tmp_path/'nbs')
    shutil.copy(ROOT/'_quarto.yml', tmp_path)
    nb(tmp_path/'nbs'/'index.ipynb', head_md='# front\n\n> page')
    nb(tmp_path/'nbs'/'run'/'00_aa.ipynb', **GOOD)
    (tmp_path/'nbs'/'sidebar.yml').write_text('contents:\n - index.ipynb\n - run/00_aa.ipynb\n', encoding='utf-8')
    (tmp_path/'README.md').write_text(render(tmp_path), encoding='utf-8', newline='\n')
    subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'],
                   cwd=tmp_path, check=True)
    return tmp_path

@pytest.fixture
def proj(good, tmp_path):
    "A copy of it, to break."
    return Path(shutil.copytree(good, tmp_path/'proj'))

def test_good(good):
    "The sample keeps them all, so what is refused below is refused for what is broken there."
    assert {r.__name__: [*r(good)] for r in rules.RULES} == {r.__name__: [] for r in rules.RULES}

def module(root, text, name='run.aa'):
    p = root/'fastai_deploy'/f'{name.replace(".", "/")}.py'
    p.parent.mkdir(exist_ok=True)
    p.write_text(text, encoding='utf-8')

def again(root, **cells): nb(root/'nbs'/'run'/'00_aa.ipynb', **{**GOOD, **cells})
def more(root, n, exp, text=''):
    folder, name = exp.split('.')
    (root/'nbs'/folder).mkdir(exist_ok=True)
    nb(root/'nbs'/folder/f'{n:02}_{name}.ipynb', exp=f'#| default_exp {exp}')
    module(root, text, exp)

def init(root, text): (root/'fastai_deploy'/'__init__.py').write_text(text, encoding='utf-8')

def printed(text, name='stdout'): return code('f()', dict(output_type='stream', name=name, text=[text]))
def shown(kind, data): return code('f()', dict(output_type='display_data', metadata={}, data={kind: data}))

PNG = base64.b64encode(bytes(50_000)).decode()
BROKEN = {
    'no id': ('ids', lambda p: again(p, test=code('1', id=''))),
    'one id twice': ('ids', lambda p: again(p, test=code('1', id='fun'))),
    'random id': ('ids', lambda p: again(p, test=code('1', id='6a35c7c4'))),
    'comment above': ('directives_first', lambda p: again(p, fun='# why\n#| export\nx = 1')),
    'import beside code': ('lone_imports', lambda p: again(p, imports='#| export\nimport json\nx = 1')),
    'import in a test cell': ('lone_imports', lambda p: again(p, test='import json\njson.dumps(1)')),
    'import within a test cell': ('lone_imports', lambda p: again(p, test='def f():\n    import json\nx = f()')),
    'error output': ('no_errors', lambda p: again(p, test=code('1/0', dict(
        output_type='error', ename='ZeroDivisionError', evalue='', traceback=[])))),
    'traceback as text': ('no_errors', lambda p: again(p, test=printed('Traceback (most recent call last)\n'))),
    'warning': ('no_errors', lambda p: again(p, test=printed('careful\n', 'stderr'))),
    'path of a machine': ('no_errors', lambda p: again(p, test=shown('text/plain', ['/tmp/abc/x.png']))),
    'big notebook': ('too_big', lambda p: again(p, head_md='word '*40_000)),
    'big image': ('too_big', lambda p: again(p, test=shown('image/png', PNG))),
    'link to no file': ('links', lambda p: again(p, head_md='# A\n\n> a\n\n[b](01_bb.ipynb)')),
    'link around a name': ('links', lambda p: again(p, head_md='# A\n\n> a\n\n[`aa`](https://a.b)')),
    'link to no heading': ('links', lambda p: again(p, head_md='# A\n\n> a\n\n[b](#b)')),
    **{o: ('stale_names', lambda p, o=o: again(p, head_md=f'# A\n\n> a\n\nBy `{o}`.')) for o in (
        'captured_args', '_private', 'trace', 'fd.old', 'aa.Gone', 'gone(1)', '.gone()')},
    'no member of the class': ('stale_names', lambda p: (
        again(p, head_md='# A\n\n> `Aa.fun`'), module(p, 'class Aa:\n    "An a."\n    x: int = 1'))),
    'notebook not listed': ('sidebar', lambda p: more(p, 1, 'run.bb')),
    'listed, not there': ('sidebar', lambda p: (p/'nbs'/'run'/'00_aa.ipynb').unlink()),
    'two homes': ('one_home', lambda p: nb(p/'nbs'/'run'/'01_aa.ipynb', exp='#| default_exp run.aa')),
    'another folder': ('one_home', lambda p: nb(p/'nbs'/'run'/'01_bb.ipynb', exp='#| default_exp nets.bb')),
    'named like a package': ('one_home', lambda p: more(p, 1, 'run.onnx')),
    'named like a function': ('one_home', lambda p: init(p, "_homes = {'run.aa': 'run'}")),
    'orphan module': ('orphans', lambda p: module(p, 'x = 1', 'run.lost')),
    'module missing': ('orphans', lambda p: (p/'fastai_deploy'/'run'/'aa.py').unlink()),
    'a folder of its own': ('downward', lambda p: more(p, 0, 'more.bb', 'import json')),
    'upward': ('downward', lambda p: (more(p, 1, 'run.bb'), module(p, 'from .bb import x'))),
    'upward, absolute': ('downward', lambda p: (more(p, 1, 'run.bb'), module(p, 'from fastai_deploy.run.bb import x'))),
    'another folder above': ('downward', lambda p: (more(p, 0, 'nets.bb'), module(p, 'from ..nets.bb import x'))),
    'a module that is not there': ('downward', lambda p: module(p, 'from .nothing import x')),
    'torch on the run side': ('downward', lambda p: module(p, 'import torch.nn as nn')),
    'torch there, lazily': ('downward', lambda p: module(p, 'def f():\n    import torch\n    return torch')),
    'fastai in graph': ('downward', lambda p: more(p, 0, 'graph.bb', 'from fastai.basics import Learner')),
    'torch at the top of serving': ('downward', lambda p: more(p, 0, 'serving.cli', 'import torch')),
    'learner at the top of serving': ('downward', lambda p: (more(p, 0, 'learner.bb'),
                                                           more(p, 0, 'serving.cli', 'from ..learner.bb import x'))),
    'pickle': ('no_pickle', lambda p: module(p, 'import pickle')),
    'numpy pickle': ('no_pickle', lambda p: module(p, 'import numpy as np\nnp.load("x", allow_pickle=True)')),
    'no docstring': ('documented', lambda p: module(p, 'def fun(): return 1')),
    'long docstring': ('documented', lambda p: module(p, 'def fun():\n    """One\n    two"""')),
    'no docment': ('documented', lambda p: module(p, 'def fun(x):\n    "Gives it back"\n    return x')),
    'method without docstring': ('documented', lambda p: module(p, 'class A(B):\n    "A"\n    def go(self): pass')),
    'two _quarto.yml': ('quarto_yml', lambda p: (p/'_quarto.yml').write_text('x: 1', encoding='utf-8')),
    'stale README': ('readme', lambda p: nb(p/'nbs'/'index.ipynb', head_md='# front\n\n> another page')),
    'not clean': ('clean', lambda p: again(p, test={**code('1'), 'execution_count': 3})),
    'not exported': ('exported', lambda p: again(p, fun=GOOD['fun'].replace('back', 'away'))),
    'module changed by hand': ('exported', lambda p: module(p, 'x = 1')),
    'index of symbols missing': ('exported', lambda p: (p/'fastai_deploy'/'_modidx.py').unlink()),
}

@pytest.mark.parametrize('rule,breaks', BROKEN.values(), ids=BROKEN.keys())
def test_rule_can_fail(rule, breaks, proj):
    breaks(proj)
    assert [*getattr(rules, rule)(proj)] != []

def test_every_rule_can_fail(): assert {r for r, _ in BROKEN.values()} == {r.__name__ for r in rules.RULES}

def test_names_that_exist(proj):
    again(proj, head_md='# A\n\n> a\n\n`fun`, `run.aa`, `model.onnx`, `--all`, `pip install x`, `str.join`, '
                        '`DataLoader`, `RGB`, `unet_learner`, `json.dumps(x)`, `.join()`, `a + b`, `PIL.Image`, `x=1`')
    assert rules.stale_names(proj) == []

def test_a_base_may_have_the_docstring(proj):
    module(proj, 'class A:\n    "A."\n    def go(self): "Goes."\nclass B(A):\n    "B."\n    def go(self): pass')
    assert rules.documented(proj) == []

def test_export_seen_below_directives():
    assert rules.is_export('#| export\nx=1') and rules.is_export('#| hide\n#| exports\nx=1')
    assert not rules.is_export('# why\n#| export\nx=1') and not rules.is_export('x=1')
