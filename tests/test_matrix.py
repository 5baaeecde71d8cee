"""Bundles made under two versions of Pillow give fastai's bytes and answers under all: a sample of `make matrix`.

Each side that trains is made once for all test processes; a version of a package is downloaded once, into .matrix/."""
import json, os, re, shutil
from collections import Counter

import env as tools_env
import matrix
import pytest
from conftest import ROOT, run_python, said
from PIL import Image

PILLOWS = matrix.for_python('pillow')
TRAINED = [v for v in matrix.TRAINED if v in PILLOWS]

def online(f, *args):
    "Call `f`, or skip where a version cannot be downloaded."
    try: return f(*args)
    except LookupError as e: pytest.skip(str(e))

@pytest.fixture(scope='session')
def side(once):
    "A function: version of Pillow → the folder that the side that trains made under it."
    def _side(pillow):
        images = once('matrix-images', matrix.make_images)
        return once(f'matrix-{pillow}', lambda d: online(matrix.make_side, d, pillow, matrix.images_of(images)))
    return _side

def tried(folder, *versions): return online(matrix.run_side, folder, *versions)

# --- the promise

@pytest.mark.parametrize('trained', TRAINED)
@pytest.mark.parametrize('version', PILLOWS)
def test_pillow(side, trained, version):
    "The item transforms give the bytes that fastai gave, and the answers are its answers."
    run_python()
    r = tried(side(trained), ('pillow', version))
    assert (r['trained']['pillow'], r['versions']['pillow']) == (trained, version)
    assert r['pictures'] >= 200 and r['tried'] > 5*r['pictures'] and not matrix.faults(r), matrix.faults(r)

@pytest.mark.parametrize('package', ['numpy', 'onnxruntime'])
@pytest.mark.parametrize('which', [0, -1], ids=['oldest', 'newest'])
def test_numpy_and_onnxruntime(side, package, which):
    version = matrix.for_python(package)[which]
    r = tried(side(TRAINED[-1]), (package, version))
    assert r['versions'][package] == version and not matrix.faults(r), matrix.faults(r)

def test_oldest_together(side):
    r = tried(side(TRAINED[0]), *((p, matrix.for_python(p)[0]) for p in matrix.VERSIONS))
    assert not matrix.faults(r), matrix.faults(r)

def test_images(side):
    "Tall ones and wide ones, even and odd, and some that are too thin."
    files = json.loads((side(TRAINED[0])/'made.json').read_text(encoding='utf-8'))['pictures']
    sizes = [Image.open(f).size for f in files]
    shapes = Counter('tall' if h > w else 'wide' for w, h in sizes)
    assert shapes['tall'] >= 50 and shapes['wide'] >= 50 and any(h > 100*w for w, h in sizes)

# --- that it can fail

def part(side, folder, change=lambda made: None):
    "A copy of a side with the tall images alone, its notes changed."
    shutil.copytree(side, folder)
    made = json.loads((folder/'made.json').read_text(encoding='utf-8'))
    tall = [i for i, f in enumerate(made['pictures']) if (s := Image.open(f).size)[1] > 1.4*s[0]]
    for o in (made, *made['cases'].values()):
        for k in {'pictures', 'answers', 'fastai'} & o.keys(): o[k] = [o[k][i] for i in tall]
    change(made)
    (folder/'made.json').write_text(json.dumps(made), encoding='utf-8')
    return folder

def reorder(ops, order): return [{**o, 'order': order} if 'order' in o else o for o in ops]

ANOTHER = {'12.3.0': 'vertical_if_cheaper', '13.0.0': 'horizontal'}

@pytest.mark.parametrize('trained', TRAINED)
def test_wrong_order(side, trained, tmp_path):
    "Passes in another order than the Learner's are seen, in Pillow and in the graph."
    from fastai_deploy.graph.pixels import item_model
    from fastai_deploy.run.spec import Input, Output, Spec
    def change(made):
        for i, o in enumerate(made['cases'].values()):
            o['ops'] = reorder(o['ops'], ANOTHER[trained])
            spec = Spec(Input(None, 'RGB'), o['ops'], [], {}, Output([1], 'identity'))
            (tmp_path/'bad'/f'{i}.onnx').write_bytes(item_model(spec))
    r = matrix.run_side(part(side(trained), tmp_path/'bad', change))
    bad = matrix.faults(r)
    for engine in ('model', 'pixels'):
        assert any(f'engine {engine}: Resize squish bilinear: ' in o for o in bad), bad
        assert not any(f'engine {engine}: CropPad' in o for o in bad), bad

def test_wrong_bytes_and_answers(side, tmp_path):
    "Another filter in one op, another op's graph in front, another answer: each is named."
    def change(made):
        made['cases']['Resize crop bicubic']['ops'][0]['resample'] = 'bilinear'
        names = [*made['cases']]
        a, b = (names.index(o) for o in ('Resize squish bilinear', 'Resize squish lanczos'))
        shutil.copy(tmp_path/'bad'/f'{a}.onnx', tmp_path/'bad'/f'{b}.onnx')
        made['answers'][3][0] += 1e-4
    r = matrix.run_side(part(side(TRAINED[-1]), tmp_path/'bad', change))
    what = [re.search('engine (.*?)(: \\d| by)', o)[1] for o in matrix.faults(r)]
    assert what == ['model: Resize crop bicubic', 'pixels: Resize squish lanczos', 'model: answers differ',
                    'pixels: answers differ']

def test_not_a_number():
    r = dict(versions={}, trained=dict(pillow='1'), pictures=1, differ={}, far=dict(model=float('nan')))
    assert matrix.faults(r) == [': engine model: answers differ by nan']

def test_no_download(monkeypatch, tmp_path, capsys):
    "Where a version cannot be had, the test says which."
    monkeypatch.setattr(matrix, 'PLACE', tmp_path)
    with pytest.raises(LookupError, match='pillow==0.0.0'): matrix.run_side(tmp_path, ('pillow', '0.0.0'))
    assert 'pillow 0.0.0 cannot be had' in capsys.readouterr().out and not [*tmp_path.iterdir()]

# --- what is said about it

def test_bounds():
    "The lowest versions that settings.ini admits, and the highest that there are, are among those that are run."
    low = dict(re.match(r'([\w-]+)>=([\d.]+)', o).groups() for o in tools_env.requirements('run'))
    assert {k.lower() for k in low} == matrix.VERSIONS.keys()
    for package, v in low.items(): assert any(o == v or o.startswith(v + '.') for o in matrix.VERSIONS[package.lower()])

def test_table():
    "The table in the docs has every version that this tool names, and nothing that differs."
    table = json.loads(matrix.TABLE.read_text(encoding='utf-8'))
    minor = int(table['made_by']['python'].split('.')[1])
    rows = table['results']
    assert not [o for r in rows for o in matrix.faults(r)]
    for package in matrix.VERSIONS:
        assert set(matrix.for_python(package, minor)) <= {r['versions'][package] for r in rows}
    assert {r['trained']['pillow'] for r in rows} == set(matrix.TRAINED)
    assert all(r['pictures'] >= 200 and r['transforms'] >= 7 for r in rows)    # one of each kind, at least

def test_versions_of_a_python():
    assert matrix.for_python('pillow', 10)[-1] == '12.3.0' and matrix.for_python('pillow', 14)[-1] == '13.0.0'

MODES = '''
import hashlib; from itertools import product
import numpy as np; from PIL import Image
from fastai_deploy.run.item_tfms import ORDERS, RESAMPLES, resize
rng, h = np.random.default_rng(0), hashlib.sha256()
for order, name, colours in product(ORDERS, RESAMPLES, [(), (3,), (4,)]):
    for hw in ((97, 31), (31, 97), (430, 4), (64, 60)):
        im = Image.fromarray(rng.integers(0, 256, hw+colours, dtype=np.uint8))
        for size in ((20, 17), (90, 40), (31, 31)):
            h.update(resize(im, size, 'squish', resample=name, order=order).tobytes())
print(h.hexdigest())
'''

def test_modes_and_orders():
    "Grey, colour and transparency, by every filter, in every order: the same bytes under every Pillow."
    digests = {}
    for v in PILLOWS:
        folder = matrix.installed('pillow', v)
        if folder is None: pytest.skip(f'Pillow {v} cannot be downloaded')
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, [folder, ROOT])))
        digests[v] = said(run_python(), '-c', MODES, env=env)
    assert len(set(digests.values())) == 1, digests
