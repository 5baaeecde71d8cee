"The lines about serving on the front page, run as they stand there."
import json, os, re, signal, subprocess, sys, urllib.request

import pytest
from PIL import Image
from conftest import ROOT, said

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

def test_serve(pets):
    want = fd.load(pets/'pets').predict(pets/'cat.png')
    p = subprocess.Popen([sys.executable, '-m', 'fastai_deploy', 'serve', 'pets', '--port', '0'], cwd=pets, env=ENV,
                         stderr=subprocess.PIPE, text=True)
    try:
        url = next(m[0] for line in p.stderr if (m := re.search(r'http://[\d.]+:\d+', line)))
        with urllib.request.urlopen(f'{url}/predict/pets', (pets/'cat.png').read_bytes()) as r: answer = json.load(r)
        assert (answer['label'], answer['index']) == want[:2]
        label, index, prob = fd.Client(url, 'pets').predict(pets/'cat.png')
        assert (label, index) == want[:2] and abs(prob - want.probs[index]) < 1e-5
    finally:
        p.send_signal(signal.SIGTERM)
        said = p.communicate(timeout=60)[1]
    assert p.returncode == 0, said

@pytest.mark.parametrize('command, files', [
    ('triton pets -o repository', 'pets/config.pbtxt pets_net/1/model.onnx pets_transforms/1/model.py'),
    ('ray pets -o app', 'app.py config.yaml'), ('pack docker pets -o image', 'Dockerfile bundle/bundle.json')])
def test_write(pets, command, files):
    assert command.split()[-1] in shell(f'fastai-deploy {command}', pets)
    for f in files.split(): assert (pets/command.split()[-1]/f).is_file(), f
