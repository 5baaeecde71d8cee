"The lines about serving on the front page, run as they stand there; and with the oldest packages that we allow."
import json, os, re, signal, subprocess, sys, urllib.request
from configparser import ConfigParser

import httpx
import pytest
from conftest import ROOT, said
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.samples.toys import toy_bundle

ENV = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUTF8='1')

def shell(line, cwd):
    "Run a `fastai-deploy` command of the front page."
    assert line in (ROOT/'README.md').read_text(encoding='utf-8')
    return said(sys.executable, '-m', *line.replace('fastai-deploy', 'fastai_deploy').split(), cwd=cwd, env=ENV)

@pytest.fixture
def pets(tmp_path):
    toy_bundle(tmp_path/'pets')
    Image.new('RGB', (40, 30), 'red').save(tmp_path/'cat.png')
    return tmp_path

def serves(pets, python):
    "`fastai-deploy serve pets` answers curl and the client, and ends well."
    want = fd.load(pets/'pets').predict(pets/'cat.png')
    p = subprocess.Popen([python, '-m', 'fastai_deploy', 'serve', 'pets', '--port', '0'], cwd=pets, env=ENV,
                         stderr=subprocess.PIPE, text=True)
    try:
        url = next(m[0] for line in p.stderr if (m := re.search(r'http://[\d.]+:\d+', line)))
        with urllib.request.urlopen(f'{url}/predict/pets', (pets/'cat.png').read_bytes()) as r: answer = json.load(r)
        assert (answer['label'], answer['index']) == want[:2]
        label, index, prob = fd.Client(url, 'pets').predict(pets/'cat.png')
        assert (label, index) == want[:2] and abs(prob - want.probs[index]) < 1e-5
        files = [('file', (n, (pets/'cat.png').read_bytes())) for n in ('a.png', 'b.png')]
        assert [o['path'] for o in httpx.post(f'{url}/predict', files=files).json()] == ['a.png', 'b.png']
    finally:
        p.send_signal(signal.SIGTERM)
        said = p.communicate(timeout=60)[1]
    assert p.returncode == 0 or os.name == 'nt', said  # there a signal just ends it

def test_serve(pets): serves(pets, sys.executable)

@pytest.mark.may_skip
def test_oldest(pets, tmp_path):
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    wanted = ini['DEFAULT']['serve_requirements'].replace('>=', '==').split() + ini['DEFAULT']['requirements'].split()
    said(sys.executable, '-m', 'venv', tmp_path/'old')
    python = tmp_path/'old'/('Scripts' if os.name == 'nt' else 'bin')/'python'
    install = [python, '-m', 'pip', 'install', '-q', '--only-binary', ':all:', *wanted]
    r = subprocess.run(install, capture_output=True, text=True)
    if 'No matching distribution' in r.stderr: pytest.skip(f'no package index, or too new a Python: {r.stderr[-300:]}')
    assert r.returncode == 0, r.stderr
    serves(pets, python)

@pytest.mark.parametrize('command, files', [
    ('triton pets -o repository', 'pets/config.pbtxt pets_net/1/model.onnx pets_transforms/1/model.py'),
    ('ray pets -o app', 'app.py config.yaml'), ('pack docker pets -o image', 'Dockerfile bundle/bundle.json')])
def test_write(pets, command, files):
    assert command.split()[-1] in shell(f'fastai-deploy {command}', pets)
    for f in files.split(): assert (pets/command.split()[-1]/f).is_file(), f
