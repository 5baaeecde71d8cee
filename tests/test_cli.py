"The command line as a process: exit codes, streams, pipes, encodings, and what it does not import."
import csv, io, json, os, subprocess, sys

import numpy as np
import pytest

RUN = 'import sys; from fastai_deploy.cli import main; sys.exit(main())'

def cli(*args, code=RUN, **kwargs):
    "Run `fastai-deploy args` in a process of its own."
    kwargs = dict(capture_output=True, text=True, encoding='utf-8', timeout=300) | kwargs
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], **kwargs)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Three pictures, one of them two folders down, and a file that is none."
    from fastai_deploy.data import digits
    d = tmp_path_factory.mktemp('photos')
    (d/'deep'/'er').mkdir(parents=True)
    files = sorted(digits().rglob('*.jpg'))[::700]
    for f, to in zip(files, ('a.jpg', 'b.JPG', 'deep/er/Zürich.jpg')): (d/to).write_bytes(f.read_bytes())
    (d/'notes.txt').write_text('no picture', encoding='utf-8')
    return d

def test_predict_json(digits_bundle, photos):
    import fastai_deploy as fd
    r = cli('predict', digits_bundle, photos, '--json', '--topk', 3, env=dict(os.environ, PYTHONIOENCODING='ascii'))
    assert (r.returncode, r.stderr) == (0, '')
    rows, model = [json.loads(o) for o in r.stdout.splitlines()], fd.load(digits_bundle)
    assert [os.path.basename(o['path']) for o in rows] == ['a.jpg', 'b.JPG', 'Zürich.jpg']
    for o in rows:
        p = model.predict(o['path'])
        assert (o['label'], o['index'], len(o['top'])) == (p.label, p.index, 3)
        np.testing.assert_allclose(o['prob'], p.probs[p.index], atol=1e-6)

def test_one_bad_picture(digits_bundle, photos):
    "The others are answered; one line on stderr; exit code 1."
    r = cli('predict', digits_bundle, photos/'a.jpg', photos/'notes.txt', photos/'b.JPG', '--csv')
    rows = list(csv.DictReader(io.StringIO(r.stdout)))
    assert r.returncode == 1 and [os.path.basename(o['path']) for o in rows] == ['a.jpg', 'b.JPG']
    assert len(r.stderr.splitlines()) == 1 and 'notes.txt: not a picture' in r.stderr

@pytest.mark.parametrize('args,code,said', [
    (['info', 'nowhere'], 1, 'nowhere: no such bundle'), (['predict', 'nowhere', 'a.jpg'], 1, 'no such'),
    (['fly'], 2, 'invalid choice'), ([], 2, 'required'), (['info', 'a', 'b'], 2, 'not known: b'),
    (['export', 'nowhere.pkl'], 1, 'no such file')])
def test_refusals(args, code, said, tmp_path):
    "No traceback, and the reason in the last line."
    r = cli(*args, cwd=tmp_path)
    assert r.returncode == code and said in r.stderr.splitlines()[-1] and 'Traceback' not in r.stderr and not r.stdout

def test_no_torch(digits_bundle, photos):
    "predict, info and verify with goldens never import torch or fastai."
    code = ('import sys; from fastai_deploy.cli import main\n'
            'code, loaded = main(), {o.split(".")[0] for o in sys.modules}\n'
            'heavy = {"torch", "fastai", "timm", "gradio", "onnx"} & loaded\n'
            'sys.exit(code or f"imported: {heavy}" if heavy else code)')
    for args in (['predict', digits_bundle, photos], ['info', digits_bundle], ['verify', digits_bundle]):
        r = cli(*args, code=code)
        assert (r.returncode, r.stderr) == (0, ''), r.stderr

@pytest.mark.may_skip
@pytest.mark.skipif(os.name == 'nt', reason='pipes end otherwise on Windows')
def test_reader_that_leaves(digits_bundle, photos):
    "`fastai-deploy predict … | head -1` ends in silence."
    files = ' '.join([f"'{photos/'a.jpg'}'"]*2000)
    r = subprocess.run(['bash', '-c', f'set -o pipefail; "$0" -c "$1" predict "$2" {files} | head -1', sys.executable,
                        RUN, digits_bundle], capture_output=True, text=True, timeout=120)
    assert (r.returncode, r.stderr) == (0, '') and len(r.stdout.splitlines()) == 1

def test_export_from_a_pickle(sample, photos, tmp_path):
    "A pickle in, a proven bundle out; then the Learner and the bundle compared."
    out = tmp_path/'out'
    r = cli('export', sample/'digits.pkl', '-o', out, '--pictures', photos)
    assert r.returncode == 0 and 'is a pickle' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert cli('verify', out).returncode == 0
    r = cli('verify', out, '--learner', sample/'digits.pkl', photos)
    assert r.returncode == 0 and 'labels equal: 3 of 3' in r.stdout
    r = cli('export', sample/'digits.pkl', '-o', out)
    assert r.returncode == 1 and r.stderr.splitlines()[-1].endswith('pass --overwrite, or choose another path')

def test_a_wrong_bundle(digits_bundle, tmp_path):
    "Two classes swapped: the table on stdout, the stage on stderr, exit code 1."
    import shutil

    from fastai_deploy.bundle import open_bundle, update_bundle
    bad = open_bundle(shutil.copytree(digits_bundle, tmp_path/'bad'))
    vocab = bad.vocab()
    update_bundle(bad, {'vocab.txt': '\n'.join(vocab[::-1]).encode()})
    r = cli('verify', tmp_path/'bad')
    assert r.returncode == 1 and '| answer' in r.stdout and "stage 'answer' differs" in r.stderr
    assert len(r.stderr.splitlines()) == 1
