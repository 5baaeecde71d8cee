"Hostile bundles, models and images, and kills in the middle of writing: a sample of what `make attack` does."
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'tests'/'attack'))
import run

SAMPLES = dict(bundles=150, images=400, kills=8, models=150)

@pytest.mark.parametrize('corpus', run.CORPORA)
def test_attack(corpus, monkeypatch):
    "Nothing but answers and errors of our own: no foreign exception, no death, no hang, no wrong answer."
    monkeypatch.syspath_prepend(str(ROOT/'tests'/'attack'))
    found, bad = run.run(corpus, seed=1, n=SAMPLES[corpus])
    counts = {name: dict(c) for name, c in found.items()}
    print(f'{corpus}: {counts}')
    assert not bad, '\n'.join(bad)
    assert sum(sum(c.values()) for c in counts.values()) >= SAMPLES[corpus]
    if corpus == 'kills': assert not any(c.get('refused') for c in counts.values()), counts
    else: assert counts['sound']['answered'], counts

BROKEN = '''
import os, time
def cases(seed, n):
    yield from [('fine', 'refused'), ('sound', 'refused'), ('sound', 'answered'), ('wrong', 'wrong'),
                ('foreign', 'foreign'), ('dies', 'dies'), ('hangs', 'hangs'), ('fine', 'answered')]
def attack(case, folder):
    if case == 'dies': os.abort()
    if case == 'hangs': time.sleep(60)
    if case == 'foreign': raise KeyError('x')
    assert case != 'wrong', 'not the same'
    return case
'''

def test_runner_sees_it(tmp_path, monkeypatch):
    "What must not happen is counted, and the cases after it are still run."
    (tmp_path/'broken.py').write_text(BROKEN)
    (tmp_path/'run.py').write_text((ROOT/'tests'/'attack'/'run.py').read_text(encoding='utf-8'), encoding='utf-8')
    monkeypatch.setattr(run, 'HERE', tmp_path)
    monkeypatch.setattr(run, 'SECONDS', 3)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    found, bad = run.run('broken')
    assert {k: dict(v) for k, v in found.items()} == dict(
        fine={'refused': 1, 'answered': 1}, sound={'wrong': 1, 'answered': 1}, wrong={'wrong': 1},
        foreign={'foreign': 1}, dies={'died': 1}, hangs={'hung': 1})
    assert len(bad) == 5 and 'SIGABRT' in ' '.join(bad) and 'KeyError' in ' '.join(bad), bad
