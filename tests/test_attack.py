"The runner of the attacks can fail; `make test` runs a sample of them, `make attack` many."
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT/'tests'/'attack'))
import run

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
