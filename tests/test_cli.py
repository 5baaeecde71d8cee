"The command line as a process: exit codes, streams, pipes, encodings, and what it does not import."
import ast, csv, io, json, os, re, shutil, signal, subprocess, sys, threading, time, zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.run.write_bundle import update_bundle
from fastai_deploy.samples.digits import digits
from fastai_deploy.samples.toys import toy_bundle

RUN = 'import sys; from fastai_deploy.serving.cli import main; sys.exit(main())'

def cli(*args, code=RUN, **kwargs):
    "Run `fastai-deploy args` in a process of its own."
    kwargs = dict(capture_output=True, text=True, encoding='utf-8', timeout=300) | kwargs
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], **kwargs)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Three images, one of them two folders down, and a file that is none."
    d = tmp_path_factory.mktemp('photos')
    (d/'deep'/'er').mkdir(parents=True)
    files = sorted(digits().rglob('*.jpg'))[::700]
    for f, to in zip(files, ('a.jpg', 'b.JPG', 'deep/er/Zürich.jpg')): (d/to).write_bytes(f.read_bytes())
    (d/'notes.txt').write_text('no picture', encoding='utf-8')
    return d

def test_predict_json(digits_bundle, photos):
    r = cli('predict', digits_bundle, photos, '--json', '--topk', 3, env=dict(os.environ, PYTHONIOENCODING='ascii'))
    assert (r.returncode, r.stderr) == (0, '')
    rows, model = [json.loads(o) for o in r.stdout.splitlines()], fd.load(digits_bundle)
    assert [os.path.basename(o['path']) for o in rows] == ['a.jpg', 'b.JPG', 'Zürich.jpg']
    for o in rows:
        p = model.predict(o['path'])
        assert (o['label'], o['index'], len(o['top'])) == (p.label, p.index, 3)
        np.testing.assert_allclose(o['prob'], p.probs[p.index], atol=1e-6)

def test_one_bad_picture(digits_bundle, photos):
    "The others are answered; a row that says why, or a line on stderr; exit code 1."
    files = ['a.jpg', 'notes.txt', 'b.JPG']
    text, table, lines = [cli('predict', digits_bundle, *files, *o, cwd=photos) for o in ((), ['--csv'], ['--json'])]
    assert {r.returncode for r in (text, table, lines)} == {1}
    assert len(text.stdout.splitlines()) == 2 and len(text.stderr.splitlines()) == 1 and 'notes.txt: not' in text.stderr
    for rows in (list(csv.DictReader(io.StringIO(table.stdout))), [json.loads(o) for o in lines.stdout.splitlines()]):
        assert [o['path'] for o in rows] == files and [bool(o.get('error')) for o in rows] == [False, True, False]
        assert rows[1]['error'].startswith('not a') and rows[0]['label']
    assert table.stderr == lines.stderr == 'no answer for 1 of 3 images: their rows say why\n'
    assert table.stdout.splitlines()[0].endswith(',error')

@pytest.mark.parametrize('args,code,said', [
    (['info', 'nowhere'], 1, 'nowhere: no such bundle'), (['predict', 'nowhere', 'a.jpg'], 1, 'no such'),
    (['fly'], 2, 'invalid choice'), ([], 2, 'required'), (['info', 'a', 'b'], 2, 'not known: b'),
    (['export', 'nowhere.pkl'], 1, 'nowhere.pkl: no such file'), (['export', '.'], 1, '.: a folder'),
    (['export', 'a.txt'], 1, 'a.txt: not a pickle'), (['export', 'a.zip'], 1, 'a.zip: not a pickle'),
    (['export', 'cut.pkl'], 1, 'cut.pkl: not a pickle'), (['predict', 'b'], 2, 'no image is named'),
    (['predict', 'b', '@nowhere.txt'], 1, 'nowhere.txt: this list cannot be read'),
    (['predict', 'b', '-'], 1, 'no such bundle'), (['predict', 'b', 'x', '--batch-size', 0], 2, 'must be from 1 to'),
    (['predict', 'b', 'x', '--threads', 'many'], 2, 'invalid'), (['check', 'nowhere'], 1, 'nowhere: no such bundle')])
def test_refusals(args, code, said, tmp_path):
    "No traceback, and the reason in the last line, which is the only one unless the grammar was wrong; no fastai."
    (tmp_path/'a.txt').write_text('no Learner')
    (tmp_path/'cut.pkl').write_bytes(b'PK\3\4 and no more')
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('bundle.json', '{}')
    r = cli(*args, cwd=tmp_path, stdin=subprocess.DEVNULL, code=f'import sys; sys.modules["fastai"] = None\n{RUN}')
    assert code == 2 or len(r.stderr.splitlines()) == 1, r.stderr
    assert r.returncode == code and said in r.stderr.splitlines()[-1] and 'Traceback' not in r.stderr and not r.stdout

def test_no_torch(digits_bundle, photos):
    "predict and info never import torch or fastai."
    code = ('import sys; from fastai_deploy.serving.cli import main\n'
            'code, loaded = main(), {o.split(".")[0] for o in sys.modules}\n'
            'heavy = {"torch", "fastai", "timm", "gradio", "onnx"} & loaded\n'
            'sys.exit(code or f"imported: {heavy}" if heavy else code)')
    for args in (['predict', digits_bundle, photos], ['info', digits_bundle]):
        r = cli(*args, code=code)
        assert (r.returncode, r.stderr) == (0, ''), r.stderr

def test_verify_without_torch(digits_bundle):
    "Where there is none, the proof says which file it did not run; where there is, all are run."
    code = ('import sys; from fastai_deploy.serving.cli import main\n'
            'sys.modules.update(dict.fromkeys(["torch", "safetensors", "timm", "fastai"]))\nsys.exit(main())')
    r = cli('verify', digits_bundle, code=code)
    assert (r.returncode, r.stderr) == (0, '') and 'proven: model.onnx, pixels.onnx\n' in r.stdout, r.stdout
    assert "not run: weights.safetensors: safetensors is not installed: pip install 'fastai_deploy[export]'" in r.stdout
    assert 'proven: model.onnx, pixels.onnx, weights.safetensors' in cli('verify', digits_bundle).stdout

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
    r = cli('export', sample/'digits.pkl', '-o', out, '--images', photos)
    assert r.returncode == 0 and 'is a pickle' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert r.stdout == '' and 'reading the Learner\n' in r.stderr and '--images FOLDER takes others' in r.stderr
    assert cli('verify', out).returncode == 0
    r = cli('verify', out, '--learner', sample/'digits.pkl', photos)
    assert r.returncode == 0 and 'labels equal: 3 of 3' in r.stdout
    r = cli('export', sample/'digits.pkl', '-o', out)
    assert r.returncode == 1 and r.stderr.splitlines()[-1].endswith('pass --overwrite, or choose another path')

def test_a_wrong_bundle(digits_bundle, tmp_path):
    "Two classes swapped: the table on stdout, the stage on stderr, exit code 1."
    bad = fd.open_bundle(shutil.copytree(digits_bundle, tmp_path/'bad'))
    update_bundle(bad, {'vocab.txt': '\n'.join(bad.vocab()[::-1]).encode()})
    r = cli('verify', tmp_path/'bad')
    assert r.returncode == 1 and '| answer' in r.stdout and "stage 'answer' differs" in r.stderr
    assert len(r.stderr.splitlines()) == 1

def toy(path, task, vocab=('red', 'green', 'blue'), why='a toy', threshold=None):
    "A bundle for a task whose net looks at colours: their means, each pixel's own, or the negative."
    look = dict(mean=.5, weights=-np.eye(3)) if task == 'image_to_image' else dict(mean=0)
    return toy_bundle(path, task, vocab=vocab, size=(8, 12), method='crop', threshold=threshold,
                      net=dict(source='opaque', why=why), **look)

def half_red(path):
    "An image that is left red and right blue."
    half = Image.new('RGB', (60, 60), (220, 0, 0))
    half.paste((0, 0, 120), (30, 0, 60, 60))
    half.save(path)
    return path

@pytest.fixture(scope='module')
def toys(tmp_path_factory):
    "A folder with a toy bundle for each task, and images left red and right blue."
    d = tmp_path_factory.mktemp('toys')
    for task in 'classification regression points segmentation image_to_image'.split(): toy(d/task, task)
    toy(d/'multilabel', 'multilabel', threshold=.55)
    (d/'photos'/'more').mkdir(parents=True)
    for o in ('half.png', 'more/other.png'): half_red(d/'photos'/o)
    return d

TEXT = dict(multilabel='half.png: red 60.6%, blue 55.9%', regression='half.png: 0.4314, 0, 0.2353',
            points='half.png: (42.9, 30.0)', segmentation='half.png: red 50.0%, blue 50.0%')

@pytest.mark.parametrize('task', TEXT)
def test_tasks(toys, task):
    "Text, JSON and CSV say what `Model.predict` says."
    p = fd.load(toys/task).predict(toys/'photos'/'half.png')
    text, rows, table = [cli('predict', f'../{task}', 'half.png', 'more', *o, cwd=toys/'photos')
                         for o in ((), ['--json'], ['--csv'])]
    assert all((r.returncode, r.stderr) == (0, '') for r in (text, rows, table))
    assert text.stdout.splitlines()[0] == TEXT[task]
    d = [json.loads(o) for o in rows.stdout.splitlines()]
    assert len(d) == 2 and d[0] == dict(path='half.png', **p.to_dict())
    head, first, second = csv.reader(io.StringIO(table.stdout))
    assert len(head) == len(first) == len(second) and first[1:] == second[1:]
    assert (head.pop(), first.pop()) == ('error', '')
    want = dict(multilabel=p.to_dict().get('probs'), segmentation=p.to_dict().get('shares')).get(task)
    if want: assert {k: float(v) for k, v in zip(head, first) if k in want} == want
    else: np.testing.assert_allclose([float(v) for v in first[1:]], np.ravel([*p.to_dict().values()]), rtol=1e-6)

def test_saved_masks(toys, tmp_path):
    "Class numbers, at the net's size and the image's; nothing is overwritten unasked."
    out = tmp_path/'masks'
    args = 'predict', toys/'segmentation', toys/'photos', '-o', out
    assert cli(*args).returncode == 0 and sorted(o.name for o in out.iterdir()) == ['half.png', 'other.png']
    assert Image.open(out/'half.png').size == (12, 8)
    again = cli(*args, '--original-size')
    assert again.returncode == 1 and 'pass --overwrite' in again.stderr
    assert cli(*args, '--original-size', '--overwrite').returncode == 0
    mask = np.asarray(Image.open(out/'half.png'))
    assert mask.shape == (60, 60) and mask.dtype == np.uint8
    assert [int(mask[y, x]) for y, x in ((30, 5), (30, 55), (3, 5), (57, 55))] == [0, 2, 255, 255]

def test_saved_pictures(toys, tmp_path):
    "Images need a place; two inputs of one name do not meet there."
    model, photo = toys/'image_to_image', toys/'photos'/'half.png'
    assert '--output' in cli('predict', model, photo).stderr
    assert cli('predict', model, photo, '-o', tmp_path).returncode == 0
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path/'half.png')).astype(int)[4, 0], [35, 255, 255], atol=1)
    (tmp_path/'more').mkdir()
    (tmp_path/'more'/'half.jpg').write_bytes(photo.read_bytes())
    r = cli('predict', model, photo, tmp_path/'more', '-o', tmp_path/'new')
    assert r.returncode == 1 and 'would both become' in r.stderr and not (tmp_path/'new').exists()
    r = cli('predict', model, photo, '-o', photo.parent, '--overwrite')
    assert r.returncode == 1 and 'is one of the images' in r.stderr

def started(*args, **kwargs):
    "A process of `fastai-deploy args` that Ctrl-C can stop, wherever the tests were started from."
    code = f'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{RUN}'
    p = subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, encoding='utf-8', start_new_session=True, **kwargs)
    limit = threading.Timer(60, p.kill)
    limit.daemon = True
    limit.start()
    return p

def test_streams(toys):
    "The first answer is out while the list of images still grows; only the next image is waited for."
    p = started('predict', toys/'points', '-', '--batch-size', 1, cwd=toys/'photos')
    def say(text): p.stdin.write(text); p.stdin.flush()
    say('half.png\n')
    for _ in range(3):
        say('more\nhalf.png\n')
        assert p.stdout.readline() == TEXT['points'] + '\n'
        assert p.stdout.readline().split(':')[0] == os.path.join('more', 'other.png')
    out, err = p.communicate('more', timeout=60)
    assert (out.splitlines()[0], len(out.splitlines()), err, p.returncode) == (TEXT['points'], 2, '', 0)

@pytest.mark.may_skip
@pytest.mark.skipif(os.name == 'nt', reason='Ctrl-C is no signal on Windows')
@pytest.mark.parametrize('to', ['', 'out.csv', 'out.json'])
def test_ctrl_c(toys, tmp_path, to):
    "What was known is kept, and nothing else is left; exit code 130, no traceback."
    to_file = ['-o', tmp_path/to] if to else ['--csv']
    p = started('predict', toys/'points', '-', '--batch-size', 2, *to_file, cwd=toys/'photos')
    p.stdin.write('half.png\nhalf.png\n'*2)  # two batches: the first is answered when the second is there
    p.stdin.flush()
    def known(): return any(o.read_text().count('half') == 2 for o in tmp_path.glob(f'.{to}-*.part/new'))
    end = time.monotonic() + 60
    if to:
        while time.monotonic() < end and not known(): time.sleep(.05)
    else: lines = [p.stdout.readline() for _ in range(3)]
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'Traceback' not in err
    if not to: assert lines[2].startswith('half.png,42.') and not out and not err; return
    assert err == f'stopped: {tmp_path/to}: 2 rows\n' and [o.name for o in tmp_path.iterdir()] == [to]
    text = (tmp_path/to).read_text()
    assert len(json.loads(text) if to == 'out.json' else list(csv.DictReader(io.StringIO(text)))) == 2

def test_files_of_rows(toys, tmp_path):
    "The end of the name says the form; what is there is kept; masks can have rows, too."
    photos, args = toys/'photos', ('predict', toys/'classification', 'half.png', 'gone.png', '--all-probs')
    for end in ('csv', 'json', 'jsonl', 'txt'):
        to = tmp_path/end/f'out.{end}'
        r = cli(*args, '-o', to, cwd=photos)
        assert r.returncode == 1 and r.stdout == '' and [*to.parent.iterdir()] == [to]
        assert f"out.{end}: {'1 row' if end == 'txt' else '2 rows'}\n" in r.stderr
    again = cli(*args, '-o', to, cwd=photos)
    assert again.returncode == 1 and 'is there already: pass --overwrite' in again.stderr
    assert cli(*args, '-o', to, '--overwrite', cwd=photos).stderr == r.stderr and [*to.parent.iterdir()] == [to]
    rows = [list(csv.DictReader(open(tmp_path/'csv'/'out.csv', encoding='utf-8', newline=''))),
            json.loads((tmp_path/'json'/'out.json').read_bytes()),
            [json.loads(o) for o in (tmp_path/'jsonl'/'out.jsonl').read_text('utf-8').splitlines()]]
    assert rows[1] == rows[2] and rows[1][1] == dict(path='gone.png', error='no such file')
    assert rows[1][0]['probs'] == {n: float(rows[0][0][f'prob_{n}']) for n in ('red', 'green', 'blue')}
    text = (tmp_path/'txt'/'out.txt').read_bytes()
    assert text == cli(*args, cwd=photos).stdout.encode()
    assert re.fullmatch(rb'half.png: red .*%, blue .*%, green .*%\n', text)
    assert cli('predict', toys/'segmentation', 'half.png', '-o', tmp_path/'m.csv', cwd=photos).returncode == 0
    for wrong, said in ((['-o', 'x.csv', '--json'], '--json does not go with x.csv'), (['-o', 'folder'], 'name a file'),
                        (['-o', os.path.join('half.png', 'x.csv')], 'cannot be written')):
        r = cli('predict', toys/'classification', 'half.png', *wrong, cwd=photos)
        assert r.returncode == 1 and said in r.stderr and len(r.stderr.splitlines()) == 1

@pytest.mark.may_skip
@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such file names')
def test_csv_is_read_back(toys, tmp_path):
    "pandas finds every path, newlines and all, and a spreadsheet no formula."
    import pandas as pd
    names = ['two\nlines.png', 'a, "b".png', '=1+1.png', '-2.png', '@sum.png', 'Zürich.png', 'tab\t.png']
    for n in names: (tmp_path/n).write_bytes((toys/'photos'/'half.png').read_bytes())
    model = toy(tmp_path/'b', 'multilabel', vocab=['=cmd()', '+x', 'fine'], threshold=.5)
    r = cli('predict', model, '--csv', '--', *names, '-3.png', cwd=tmp_path)
    table = pd.read_csv(io.StringIO(r.stdout))
    assert r.returncode == 1
    assert list(table.path) == [*names[:2], "'=1+1.png", "'-2.png", "'@sum.png", 'Zürich.png', r'tab\u0009.png',
                                "'-3.png"]
    assert list(table.columns) == ['path', 'labels', "'=cmd()", "'+x", 'fine', 'error']
    assert set(table.labels[:7]) == {"'=cmd();fine"} and table.error[7] == 'no such file' and table.fine[0] > .5
    r = cli('predict', toy(tmp_path/'points', 'points'), names[0], '--csv', cwd=tmp_path)
    assert isinstance(pd.read_csv(io.StringIO(r.stdout)).x_1[0], float) and r.stdout.count('\n') == 3

def in_terminal(*args, **kwargs):
    "What `fastai-deploy args` sends to a terminal, on stdout and stderr together."
    import pty
    leader, follower = pty.openpty()
    p = subprocess.Popen([sys.executable, '-c', RUN, *map(str, args)], stdin=follower, stdout=follower, stderr=follower,
                         **kwargs)
    os.close(follower)
    out = b''
    while True:
        try: part = os.read(leader, 4096)
        except OSError: break  # the other side is closed
        if not part: break
        out += part
    os.close(leader)
    p.wait(timeout=60)
    return out.decode('utf-8', 'surrogateescape')

@pytest.mark.may_skip
@pytest.mark.skipif(os.name == 'nt', reason='no terminal to open there')
def test_nothing_raw_reaches_a_terminal(toys, tmp_path):
    "Labels, specs, the proof, file names, messages: commands to the terminal are shown, not sent."
    evil = '\x1b[2J\x1b]0;pwned\x07\x9b31m\x7f\u202e\u2066\u2028\x85\rok'
    name = evil.replace('\x1b]0;', '') + '\n.png'
    (tmp_path/name).write_bytes((toys/'photos'/'half.png').read_bytes())
    (tmp_path/f'bad{name}').write_text('no image')
    model = toy(tmp_path/'b', 'classification', vocab=[evil, f'x{evil}', 'y'], why=f'it is {evil}\nsha256   forged')
    parity = fd.Parity(f'nobody{evil}\nproven: all', 'classification', files=[f'{evil}.onnx'])
    for s in parity.stages: s.worst_item = f'{evil}\nproven: all'
    update_bundle(fd.open_bundle(model), {'parity.json': parity.to_json().encode()})
    broken = toy(tmp_path/f'b{evil}', 'points')
    (broken/'model.onnx').write_bytes(b'')
    both = 'predict', model, name, f'bad{name}'
    for args in (['info', model], ['info', model, '--json'], both, [*both, '--csv', '--all-probs'], [*both, '--json'],
                 ['predict', model, name, '--topk', '3'], ['predict', model, name, '-o', f'{evil}.csv'], [evil],
                 ['predict', broken, name], ['info', evil], ['predict', model, f'@{evil}'], ['export', evil],
                 ['info', model, f'--x{evil}'], ['check', evil], ['verify', model], ['--traceback', 'info', evil],
                 ['verify', model, '--learner', evil], ['app', 'node', broken, '-o', evil]):
        said = in_terminal(*args, cwd=tmp_path)
        own = said.replace('\r\x1b[K', '').replace('\r[##', '[##').replace('\r\n', '\n')
        assert re.findall('[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]', own) == [], (args, said)
        assert own.strip() and not re.search('(?m)^(sha256   forged|proven: all)', own), (args, said)

def test_json_escapes_what_a_terminal_obeys(toys, tmp_path):
    "And a program reads the names as they are."
    vocab = ['\x1b[2J\x9b', 'b\u202e\x7f', 'ü']
    model = toy(tmp_path/'b', 'classification', vocab=vocab)
    r = cli('predict', model, toys/'photos'/'half.png', '--json', '--all-probs')
    assert [*json.loads(r.stdout)['probs']] == vocab and 'ü' in r.stdout
    assert not re.search('[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]', r.stdout)

def messages():
    "(file, text) of each string in the package that is no docstring and speaks of a parameter or a function of ours."
    for f in sorted((Path(__file__).parent.parent/'fastai_deploy').rglob('*.py')):
        if f.stem in ('cli', '_modidx'): continue
        tree, inside = ast.parse(f.read_text(encoding='utf-8')), set()
        docs = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(getattr(n, 'body', None), list) and n.body
                and isinstance(n.body[0], ast.Expr)}
        for n in ast.walk(tree):
            if isinstance(n, ast.JoinedStr):
                inside |= {id(o) for o in n.values}
                text = ''.join(o.value if isinstance(o, ast.Constant) else 'X' for o in n.values)
            elif isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs | inside: text = n.value
            else: continue
            other = re.search(r'<\w+ |\n|^import ', text)  # HTML of a page, a file that is written, a program
            if re.search(HINT, text) and not other: yield f.name, text

HINT = r"(?<![\w.&?-])[a-z][a-z_0-9]*=(?!=)|\bfd\.\w+"
LEARNER = {'split_idx=', 'axis=', 'thresh=', 'method=', 'detach=', 'outside=', 'column=',  # about the user's own Python
           'a=', 'address=', 'port=',  # a bundle's name; what tritonserver takes
           'fd.export', 'fd.verify', 'fd.register_op'}

def test_errors_speak_the_command_line():
    "Each parameter in an error of the library has an option in its place, and there is such an option."
    from fastai_deploy.serving.cli import in_flags, make_parser
    found = [*messages()]
    subs = next(o for o in make_parser()._actions if hasattr(o.choices, 'values')).choices.values()
    options = {o for sub in subs for a in sub._actions for o in a.option_strings}
    assert len(found) > 20 and all('Python' not in o for _, o in found)
    for file, text in found:
        said = in_flags(text)
        assert {*re.findall(HINT, said)} <= LEARNER, f'{file}: {said}'
        assert {*re.findall(r'(?<![\w-])--[\w-]+', said)} <= options, f'{file}: {said}'

def test_lists(toys, tmp_path):
    "Names from a file, with a mark of its encoding and Windows' line ends; names from stdin."
    (tmp_path/'names.txt').write_bytes('\ufeffhalf.png\r\n\r\nmore\r\n'.encode())
    want = cli('predict', toys/'points', 'half.png', 'more', cwd=toys/'photos').stdout
    names = tmp_path/'names.txt'
    for args in ([f'@{names}'], ['--list', names], ['-'], ['--list', '-'], ['half.png', '-']):
        said = 'more\n' if 'half.png' in args else 'half.png\nmore'
        r = cli('predict', toys/'points', *args, cwd=toys/'photos', input=said)
        assert (r.stdout, r.stderr, r.returncode) == (want, '', 0), args

def test_module(toys):
    "`python -m fastai_deploy` is the same command."
    args = ['predict', toys/'points', toys/'photos'/'half.png', '--json']
    r = subprocess.run([sys.executable, '-m', 'fastai_deploy', *map(str, args)], capture_output=True, text=True)
    assert (r.returncode, r.stdout, r.stderr) == (0, cli(*args).stdout, '')

def test_options_of_loading(toys, tmp_path):
    "Each reaches `load`."
    photo = toys/'photos'/'half.png'
    with_ = lambda *o: cli('predict', toys/'points', photo, *o)
    assert with_('--threads', 1, '--provider', 'CPUExecutionProvider', '--batch-size', 1).returncode == 0
    assert 'execution provider' in with_('--provider', 'NoSuchProvider').stderr
    r = with_('--max-pixels', 100)
    assert r.returncode == 1 and '--max-pixels' in r.stderr and with_('--max-pixels', 3600).returncode == 0
    assert 'no pixels.onnx' in with_('--engine', 'pixels').stderr
    r = with_('--formats', 'JPEG')
    assert r.returncode == 1 and 'half.png' in r.stderr and with_('--formats', 'jpeg,png').returncode == 0
    assert with_('--formats', 'any', '--any-ops', '--no-check', '--sandbox').returncode == 0

def test_exactly_that_bundle(toys, tmp_path):
    "`info` prints the hash of a bundle; the others refuse a bundle with another one."
    photo, model = toys/'photos'/'half.png', toys/'points'
    told = cli('info', model).stdout
    sha = re.search(r'(?m)^sha256 +([0-9a-f]{64})$', told)[1]
    assert json.loads(cli('info', model, '--json').stdout)['sha256'] == sha and 'up to 50,000,000 pixels' in told
    for args in (['info', model], ['predict', model, photo], ['check', model]):
        assert cli(*args, '--sha256', sha.upper()).returncode == 0, args
    for args in (['info', model], ['predict', model, photo], ['check', model], ['verify', model], ['demo', model],
                 ['app', 'node', model, '-o', tmp_path/'app']):
        r = cli(*args, '--sha256', '0'*64)
        assert r.returncode == 1 and 'sha256' in r.stderr and len(r.stderr.splitlines()) == 1, args
    assert not (tmp_path/'app').exists()

def test_check(toys, digits_bundle, tmp_path):
    "A sound bundle, one without goldens, one that was altered."
    r = cli('check', digits_bundle)
    assert (r.returncode, r.stderr) == (0, '')
    assert re.fullmatch(r'.*digits: loads and answers its golden; \d+ files, sha256 [0-9a-f]{64}\n', r.stdout)
    assert 'loads; it has no golden' in cli('check', toys/'points', '--memory', 4000, '--seconds', 50).stdout
    bad = shutil.copytree(digits_bundle, tmp_path/'bad')
    (bad/'vocab.txt').write_text('altered')
    r = cli('check', bad)
    assert r.returncode == 1 and r.stdout == '' and len(r.stderr.splitlines()) == 1

def test_options_of_export_and_demo(toys, tmp_path, monkeypatch):
    "What is said at the command line is what `fd.export` and `fd.demo` get."
    import fastai_deploy.learner.export_pkl as export_pkl
    from fastai_deploy.serving.cli import main
    pkl, got = tmp_path/'m.pkl', {}
    pkl.write_bytes(b'\x80\x02.')
    monkeypatch.setattr(export_pkl, 'load_learner', lambda path: 'learn')
    monkeypatch.setitem(vars(fd), 'export', lambda learn, path, **kw: got.update(kw))
    monkeypatch.setitem(vars(fd), 'demo', lambda model, learn, **kw: got.update(kw, learn=learn))
    (tmp_path/'names.json').write_text('{"False": "dog", "a=b": "ä"}', encoding='utf-8')
    assert main(f'export {pkl} --no-weights --no-pixels --no-goldens --names False=dog True=a=b'.split()) == 0
    assert (got['weights'], got['pixels'], got['goldens']) == (False, False, False)
    assert got['names'] == {'False': 'dog', 'True': 'a=b'} and callable(got['progress'])
    assert main(['export', str(pkl), '--names', str(tmp_path/'names.json'), '--goldens', '3']) == 0
    assert (got['weights'], got['goldens'], got['names']) == (True, 3, {'False': 'dog', 'a=b': 'ä'})
    for wrong in ('dog', tmp_path/'nowhere.json'): assert main(['export', str(pkl), '--names', str(wrong)]) == 1
    assert main(f"demo {toys/'points'} --title T --description D --host 0.0.0.0 --port 7".split()) == 0
    assert (got['title'], got['description']) == ('T', 'D')
    assert (got['server_name'], got['server_port'], got['learn']) == ('0.0.0.0', 7, None)
