"Every notebook runs, each in a process of its own; what ran is counted, because a run of nothing looks like success."
import json, os, re, subprocess, sys

import pytest, rules
from conftest import ROOT
from env import settings

NOTEBOOKS = rules.notebooks(ROOT)
FLAGS = os.environ.get('FASTAI_DEPLOY_FLAGS', '').split()   # `slow` in `make test-slow`

SKIPPED = set(settings()['tst_flags'].split()) - set(FLAGS)    # flags whose cells do not run

def should_run(path):
    "Ids of the cells that must run, read from the notebook itself."
    off = '|'.join(sorted(SKIPPED) + [r'eval:\s*false']) or '(?!)'
    return [i for i, s, _ in rules.cells(path) if not re.search(rf'(?m)^\s*#\|\s*(?:{off})\s*$', s)]

def run(path, *args):
    "Run a notebook: (exit code, ids of the cells that ran, what it said)."
    ran = args[0] if args else path.with_suffix('.ran.json')
    env = dict(os.environ, IN_TEST='1', MPLBACKEND='agg', PYTHONUTF8='1')
    r = subprocess.run([sys.executable, ROOT/'tools'/'run_notebook.py', path, '--flags', ' '.join(FLAGS), '--ran', ran],
                       cwd=ROOT, capture_output=True, text=True, encoding='utf-8', env=env, timeout=600)
    return r.returncode, json.loads(ran.read_text(encoding='utf-8')) if ran.exists() else [], r.stdout + r.stderr

def test_number_of_notebooks():
    "Those that the site's sidebar lists."
    listed = re.findall(r'[\w/-]+\.ipynb', (ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))
    assert [o.relative_to(ROOT/'nbs').as_posix() for o in NOTEBOOKS] == sorted(listed) and len(NOTEBOOKS) >= 50

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: f'{o.parent.name}/{o.stem}')
def test_notebook(path, tmp_path):
    rc, ran, said = run(path, tmp_path/'ran.json')
    assert rc == 0, said[-6000:]
    want = should_run(path)
    assert ran == want, f'cells that did not run: {[o for o in want if o not in ran]}'
    assert ran or path.stem == 'index'

def write(path, *sources):
    cs = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[], execution_count=None)
          for i, s in enumerate(sources)]
    path.write_text(json.dumps(dict(cells=cs, metadata={}, nbformat=4, nbformat_minor=5)), encoding='utf-8')
    return path

def test_a_failing_notebook_fails(tmp_path):
    rc, ran, said = run(write(tmp_path/'bad.ipynb', 'x = 1', 'assert x == 2', 'y = 1'))
    assert rc == 1 and ran == ['c0', 'c1'] and 'AssertionError' in said

def test_a_skipped_cell_is_seen(tmp_path):
    path = write(tmp_path/'skip.ipynb', '#| slow\nx = 1', '#| eval: false\n1/0', 'y = 1')
    rc, ran, _ = run(path)
    assert rc == 0 and ran == should_run(path) == ([] if 'slow' in SKIPPED else ['c0']) + ['c2']
