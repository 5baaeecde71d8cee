"A sample of `make soak`: many requests of all kinds, each answered by what is its own."
import subprocess, sys
from pathlib import Path

import pytest

for tool in ('starlette', 'uvicorn', 'python_multipart', 'prometheus_client'):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install 'fastai_deploy[serve]'")

ROOT = Path(__file__).resolve().parent.parent

@pytest.mark.skipif(sys.platform != 'linux', reason='looks for memory and sockets in /proc')
def test_a_sample_of_the_soak():
    cmd = [sys.executable, ROOT/'tools'/'soak.py', '--requests', '2000', '--idle', '500', '--growth', '30']
    r = subprocess.run(cmd, capture_output=True, text=True, encoding='utf-8', timeout=300)
    assert r.returncode == 0 and '500 closed by the server' in r.stdout, r.stdout + r.stderr

def test_the_soak_sees_a_wrong_answer(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/'tools')
    import soak
    a = soak.Asking(0, 0)
    for answer, wrong in ((7, 0), (8, 1)):
        n = lambda: dict(values=[answer/255-.5, -.5, -.5])
        monkeypatch.setattr(a, 'draw', lambda: ('small', 7, b''))
        monkeypatch.setattr(a, 'send', lambda *args, **kw: (200, n(), {}))
        a.one()
        assert len(a.wrong) == wrong
    monkeypatch.setattr(a, 'send', lambda *args, **kw: (500, {'error': ''}, {}))
    for kind in (a.one, a.several, a.bad, a.hurried, a.lost): kind()
    assert len(a.wrong) == 6
    assert soak.growth([90, *range(100, 140)]) > 15 and soak.growth([50, 90] + [100]*40) == 0
