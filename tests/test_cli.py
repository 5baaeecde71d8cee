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
    "predict and info never import torch or fastai."
    code = ('import sys; from fastai_deploy.cli import main\n'
            'code, loaded = main(), {o.split(".")[0] for o in sys.modules}\n'
            'heavy = {"torch", "fastai", "timm", "gradio", "onnx"} & loaded\n'
            'sys.exit(code or f"imported: {heavy}" if heavy else code)')
    for args in (['predict', digits_bundle, photos], ['info', digits_bundle]):
        r = cli(*args, code=code)
        assert (r.returncode, r.stderr) == (0, ''), r.stderr

def test_verify_without_torch(digits_bundle):
    "Where there is none, the proof says which file it did not run; where there is, all are run."
    code = ('import sys; from fastai_deploy.cli import main\n'
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

def toy(path, task, **output):
    "A bundle for a task whose net looks at colours: their means, each pixel's own, or the negative."
    from fastai_deploy.bundle import write_bundle
    from fastai_deploy.spec import Input, Output, Spec
    from onnx import TensorProto, helper
    node, tensor, info = helper.make_node, helper.make_tensor, helper.make_tensor_value_info
    n = 2 if task == 'points' else 3
    name = dict(regression='values', points='points', image_to_image='pixels').get(task, 'probs')
    act = dict(multilabel='sigmoid', segmentation='softmax').get(task, 'identity')
    shape = [n, 8, 12] if task in ('segmentation', 'image_to_image') else [n]
    nodes = [node('Cast', ['image'], ['f'], to=TensorProto.FLOAT), node('Div', ['f', 'div'], ['net_input'])]
    if len(shape) == 1:
        nodes += [node('ReduceMean', ['net_input', 'hw'], ['mean'], keepdims=0),
                  node('Gather', ['mean', 'n'], ['logits'], axis=1)]
    else: nodes.append(node('Identity' if task == 'segmentation' else 'Neg', ['net_input'], ['logits']))
    last = dict(multilabel='Sigmoid', segmentation='Softmax').get(task, 'Identity')
    if task == 'image_to_image': nodes.append(node('Add', ['logits', 'one'], [name]))
    else: nodes.append(node(last, ['logits'], [name], **(dict(axis=1) if last == 'Softmax' else {})))
    consts = [tensor('div', TensorProto.FLOAT, [], [255]), tensor('hw', TensorProto.INT64, [2], [2, 3]),
              tensor('n', TensorProto.INT64, [n], range(n)), tensor('one', TensorProto.FLOAT, [], [1])]
    graph = helper.make_graph(nodes, 'toy', [info('image', TensorProto.UINT8, ['batch', 3, 8, 12])],
                              [info(name, TensorProto.FLOAT, ['batch', *shape])], consts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10).SerializeToString()
    spec = Spec(Input([8, 12]), [dict(op='resize', size=[8, 12], method='crop', pad_mode='zeros', resample='bilinear',
                                     order='horizontal')],
                [dict(op='int_to_float', div=255.0)], dict(source='opaque', why='a toy'),
                Output(shape, act, name, **output), task=task)
    vocab = {'vocab.txt': b'red\ngreen\nblue'} if name == 'probs' else {}
    return write_bundle(path, spec, {'model.onnx': model, **vocab})

@pytest.fixture(scope='module')
def toys(tmp_path_factory):
    "A folder with a toy bundle for each task, and pictures left red and right blue."
    from PIL import Image
    d = tmp_path_factory.mktemp('toys')
    for task in 'regression points segmentation image_to_image'.split(): toy(d/task, task)
    toy(d/'multilabel', 'multilabel', threshold=.55)
    half = Image.new('RGB', (60, 60), (220, 0, 0))
    half.paste((0, 0, 120), (30, 0, 60, 60))
    (d/'photos'/'more').mkdir(parents=True)
    half.save(d/'photos'/'half.png')
    half.save(d/'photos'/'more'/'other.png')
    return d

TEXT = dict(multilabel='half.png: red 60.6%, blue 55.9%', regression='half.png: 0.4314, 0, 0.2353',
            points='half.png: (42.9, 30.0)', segmentation='half.png: red 50.0%, blue 50.0%')

@pytest.mark.parametrize('task', TEXT)
def test_tasks(toys, task):
    "Text, JSON and CSV say what `Model.predict` says."
    import fastai_deploy as fd
    p = fd.load(toys/task).predict(toys/'photos'/'half.png')
    text, rows, table = [cli('predict', f'../{task}', 'half.png', 'more', *o, cwd=toys/'photos')
                         for o in ((), ['--json'], ['--csv'])]
    assert all((r.returncode, r.stderr) == (0, '') for r in (text, rows, table))
    assert text.stdout.splitlines()[0] == TEXT[task]
    d = [json.loads(o) for o in rows.stdout.splitlines()]
    assert len(d) == 2 and d[0] == dict(path='half.png', **p.to_dict())
    head, first, second = csv.reader(io.StringIO(table.stdout))
    assert len(head) == len(first) == len(second) and first[1:] == second[1:]
    want = dict(multilabel=p.to_dict().get('probs'), segmentation=p.to_dict().get('shares')).get(task)
    if want: assert {k: float(v) for k, v in zip(head, first) if k in want} == want
    else: np.testing.assert_allclose([float(v) for v in first[1:]], np.ravel([*p.to_dict().values()]), rtol=1e-6)

def test_saved_masks(toys, tmp_path):
    "Class numbers, at the net's size and the picture's; nothing is overwritten unasked."
    from PIL import Image
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
    "Pictures need a place; two inputs of one name do not meet there."
    from PIL import Image
    model, photo = toys/'image_to_image', toys/'photos'/'half.png'
    assert '--output' in cli('predict', model, photo).stderr
    assert cli('predict', model, photo, '-o', tmp_path).returncode == 0
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path/'half.png')).astype(int)[4, 0], [35, 255, 255], atol=1)
    (tmp_path/'more').mkdir()
    (tmp_path/'more'/'half.jpg').write_bytes(photo.read_bytes())
    r = cli('predict', model, photo, tmp_path/'more', '-o', tmp_path/'new')
    assert r.returncode == 1 and 'would both become' in r.stderr and not (tmp_path/'new').exists()
    r = cli('predict', model, photo, '-o', photo.parent, '--overwrite')
    assert r.returncode == 1 and 'is one of the pictures' in r.stderr
