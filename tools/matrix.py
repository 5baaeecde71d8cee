"""`make matrix`: bundles made under two versions of Pillow, run under all versions that we name.

    make matrix                     every op, filter and version (about half an hour); ends with the table
    make matrix ARGS=--table        the same; writes nbs/reference/versions.json, which the docs show

The side that trains writes down what fastai itself makes of some 300 images with every item transform: the pets
photos where there are some, else drawn ones, and odd sizes. The side that runs, with the version to be tried in front
of everything else, must get the same bytes and answers. Other versions lie in .matrix/, each in a folder of its own."""
import argparse, hashlib, importlib, json, math, os, platform, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from env import PETS, ROOT, find_uv, python_of
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.run.spec import Input, Output, Spec

TABLE = ROOT/'nbs'/'reference'/'versions.json'
PLACE = ROOT/'.matrix'
TOLERANCE = 1e-5
TRAINED = '12.3.0', '13.0.0'    # Pillow where the Learner is: gradio holds it below 13, fastai does not
# package -> version -> the Pythons (3.x) that it has wheels for, the oldest and the newest that we know
VERSIONS = dict(
    pillow={'10.4.0': (10, 13), '11.3.0': (10, 14), '12.0.0': (10, 14), '12.2.0': (10, 14), '12.3.0': (10, 14),
            '13.0.0': (11, 14)},
    numpy={'1.26.4': (10, 12), '2.0.2': (10, 12), '2.2.6': (10, 13), '2.4.6': (11, 14)},
    onnxruntime={'1.19.2': (10, 12), '1.20.1': (10, 13), '1.23.2': (10, 13), '1.31.1': (11, 14)})
TRAINING = 'pillow', 'numpy', 'torch', 'torchvision', 'fastai', 'timm', 'onnx'    # what the other side is said to have
FILTERS = 'nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos'

# --- versions

def for_python(package, minor=sys.version_info[1]):
    "The versions of a package that have a wheel for Python 3.`minor`."
    return [v for v, (first, last) in VERSIONS[package].items() if first <= minor <= last]

def installed(package, version):
    "The folder of one version of a package, downloaded the first time; None if that fails."
    d = PLACE/f'cp3{sys.version_info[1]}-{package}-{version}'
    if d.exists(): return d
    from fastai_deploy.run.beside import beside
    uv = find_uv()
    cmd = [uv, 'pip', 'install', '--python', sys.executable] if uv else [sys.executable, '-m', 'pip', 'install']
    try:
        with beside(d) as new:
            subprocess.run([*map(str, cmd), '-q', '--no-deps', '--only-binary', ':all:', '--target', str(new),
                            f'{package}=={version}'], check=True, capture_output=True, text=True, encoding='utf-8')
    except subprocess.CalledProcessError as e:
        return print(f'{package} {version} cannot be had: {(e.stderr.splitlines() or [""])[-1]}')
    except OSError:    # another process was faster
        if not d.exists(): raise
    return d

def call(python, *args, versions=()):
    "Run this file's other side with Python `python`, and `versions` [(package, version)] in front of its own."
    folders = [installed(*o) for o in versions]
    if None in folders: raise LookupError('cannot be downloaded: ' + ', '.join('=='.join(o) for o in versions))
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, [*folders, ROOT])), PYTHONUTF8='1', OMP_NUM_THREADS='1',
               OMP_WAIT_POLICY='PASSIVE', PYTHONWARNINGS='ignore')
    env.pop('PYTHONSAFEPATH', None)
    r = subprocess.run([str(o) for o in (python, __file__, *args)], cwd=ROOT, env=env, capture_output=True, text=True,
                       encoding='utf-8')
    if r.returncode: raise RuntimeError(f'{args[0]} {versions}: exit code {r.returncode}\n{r.stdout}{r.stderr[-4000:]}')
    return json.loads(r.stdout.splitlines()[-1])

def versions_of(*names):
    "package -> version, of what this process imports."
    return {o: importlib.import_module(o if o != 'pillow' else 'PIL').__version__ for o in names}

# --- images

def drawn(rng, w, h):
    y, x = np.mgrid[:h, :w]
    a = np.stack([x*255/max(w-1, 1), y*255/max(h-1, 1), 255*((x//5 + y//7) % 2)], -1)
    return Image.fromarray((a*.7 + rng.uniform(0, 76, (h, w, 3))).astype('uint8'))

def images_of(folder):
    "The paths of all images: photos, and those in `folder`."
    return [*sorted(PETS.glob('*.jpg')), *sorted(folder.glob('*.png'))]

def make_images(folder, odd=60):
    "Write `odd` images of random sizes into `folder`, a few extremely thin ones, and more where there are no photos."
    rng, photos = np.random.default_rng(0), sorted(PETS.glob('*.jpg'))
    side = lambda: round(math.exp(rng.uniform(math.log(9), math.log(700))))
    sizes = [(side(), side()) for _ in range(odd)] + [(3, 400), (400, 3), (1, 150), (2, 203), (63, 64), (64, 65)]
    if not photos: sizes += [(w, h) for w, h in [(167, 251), (250, 187)] for _ in range(110)]
    folder.mkdir(parents=True)
    for i, (w, h) in enumerate(sizes):
        img = Image.open(photos[i]).convert('RGB').crop((0, 0, w, h)) if photos and i % 2 else drawn(rng, w, h)
        img.save(folder/f'{i:03}-{w}x{h}.png')

# --- the side that trains

def item_tfms(whole):
    "name -> a fastai item transform: each with each filter and padding, or one of each kind."
    import fastai.vision.all as fv
    res, pads = {}, ('reflection', 'border', 'zeros')
    for i, r in enumerate(FILTERS):
        f, pad = (Image.Resampling[r.upper()],)*2, pads[i % 3]
        res |= {f'Resize squish {r}': fv.Resize((149, 183), 'squish', resamples=f),
                f'Resize crop {r}': fv.Resize((72, 53), resamples=f),
                f'Resize pad {pad} {r}': fv.Resize((60, 71), 'pad', pad, resamples=f),
                f'RandomResizedCrop {r}': fv.RandomResizedCrop((107, 128), resamples=f),
                f'RatioResize {r}': fv.RatioResize(67, resamples=f)}
    res |= {f'CropPad {o}': fv.CropPad((80, 63), o) for o in pads}
    few = ('Resize squish bilinear', 'Resize squish lanczos', 'Resize crop bicubic', 'Resize pad border box',
           'RandomResizedCrop bilinear', 'RatioResize hamming', 'CropPad border')
    return res if whole else {o: res[o] for o in few}

def digest(a):
    "Of the shape and bytes of a uint8 array."
    return hashlib.sha256(repr(a.shape).encode() + a.tobytes()).hexdigest()[:24]

def by_fastai(tfm, img):
    "The digest of what fastai makes of an image at validation; None where it cannot."
    import fastai.vision.all as fv
    try:    # RatioResize draws its crop at random, even here: take the middle
        with patch('random.random', lambda: .5): return digest(fv.ToTensor()(tfm(img, split_idx=1)).numpy())
    except Exception: return None    # too thin, in many words

def learner(files):
    "A Learner that saw a few of the images, squished."
    import fastai.vision.all as fv
    fv.set_seed(0, reproducible=True)
    tfms = [*fv.aug_transforms(size=48), fv.Normalize.from_stats(*fv.imagenet_stats)]
    few = files[::5]    # of each kind
    dls = fv.ImageDataLoaders.from_path_func(few[0].parent, few, lambda f: 'abc'[few.index(Path(f)) % 3], valid_pct=.5,
                                             item_tfms=fv.Resize((90, 96), 'squish'), batch_tfms=tfms, bs=8, seed=1,
                                             num_workers=0)
    learn = fv.vision_learner(dls, 'test_resnet', pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    return learn

def make(folder, pictures, whole):
    "In `folder`: what fastai gives for each image, the item transforms captured and as graphs, and a bundle."
    import fastai.vision.all as fv

    from fastai_deploy.learner.tfms import item_ops
    from fastai_deploy.graph.pixels import item_model
    tfms, files = item_tfms(whole), [Path(o) for o in pictures]
    ops = {n: item_ops(SimpleNamespace(after_item=fv.Pipeline([t, fv.ToTensor()]))) for n, t in tfms.items()}
    for i, o in enumerate(ops.values()):
        (folder/f'{i}.onnx').write_bytes(item_model(Spec(Input(None, 'RGB'), o, [], {}, Output([1], 'identity'))))
    seen = {n: [] for n in tfms}
    for f in files:
        img = fv.PILImage.create(f)
        for n, t in tfms.items(): seen[n].append(by_fastai(t, img))
    learn = learner(files)
    fd.export(learn, folder/'bundle', progress=False, overwrite=True)
    with learn.no_bar(): probs = learn.get_preds(dl=learn.dls.test_dl(files, bs=1))[0]
    made = dict(pictures=[str(o) for o in files], cases={n: dict(ops=ops[n], fastai=seen[n]) for n in tfms},
                answers=probs.tolist(), versions=versions_of(*TRAINING))
    (folder/'made.json').write_text(json.dumps(made), encoding='utf-8')
    return made['versions']

# --- the side that runs: numpy, Pillow and onnxruntime, nothing else

def by_pillow(ops, img):
    "The digest of what the item transforms make of an image in Pillow; None where they refuse."
    from fastai_deploy.run.basics import ImageError
    from fastai_deploy.run.item_tfms import apply_item, to_array
    try: return digest(to_array(apply_item(ops, img)))
    except ImageError: return None

def by_graph(session, img):
    "The same, from their graph."
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException
    try: a = session.run(None, {'picture': np.asarray(img)})[0]
    except (InvalidArgument, RuntimeException): return None    # no pixel is left
    return digest(a[0]) if a.size else None

def run(folder):
    "How far this process is from fastai: images whose bytes differ, by engine and transform, and the answers."
    from fastai_deploy.run.image import open_image
    from fastai_deploy.run.session import make_session
    from fastai_deploy.run.item_tfms import check_item
    made = json.loads((folder/'made.json').read_text(encoding='utf-8'))
    cases = [(n, o['ops'], make_session((folder/f'{i}.onnx').read_bytes(), threads=1))
             for i, (n, o) in enumerate(made['cases'].items())]
    for _, ops, _ in cases: check_item(ops)
    differ = {e: {n: [] for n in made['cases']} for e in ('model', 'pixels')}
    models = {e: fd.load(folder/'bundle', threads=1, engine=e) for e in differ}
    far, tried = dict.fromkeys(differ, 0.), 0
    for k, f in enumerate(made['pictures']):
        img = open_image(f)
        for name, ops, session in cases:
            want = made['cases'][name]['fastai'][k]
            tried += want is not None
            for engine, have in ('model', by_pillow(ops, img)), ('pixels', by_graph(session, img)):
                if have != want: differ[engine][name].append(Path(f).name)
        for e, m in models.items():
            far[e] = max(far[e], float(np.abs(m.predict(img).probs - np.array(made['answers'][k])).max()))
    return dict(versions=versions_of('pillow', 'numpy', 'onnxruntime'), trained=made['versions'],
                pictures=len(made['pictures']), transforms=len(cases), tried=tried, far=far,
                differ={e: {n: o for n, o in by.items() if o} for e, by in differ.items()})

# --- both

def make_side(folder, pillow, pictures, whole=False, python=None, versions=()):
    "Train under one version of Pillow: `folder`, ready for `run_side`."
    folder.mkdir(parents=True)
    (folder/'todo.json').write_text(json.dumps([str(o) for o in pictures]), encoding='utf-8')
    call(python or python_of('dev'), '--make', folder, *(['--whole'] if whole else []),
         versions=[*versions, ('pillow', pillow)] if pillow else versions)
    return folder

def run_side(folder, *versions, python=None):
    "Run what `make_side` made, with some versions of packages; the others are the environment's own."
    return call(python or python_of('run'), '--run', folder, versions=versions)

def faults(result):
    "What is wrong in a result of `run_side`, in words."
    what = ', '.join(f'{k} {v}' for k, v in result['versions'].items()) + ': engine '
    rest = f"of {result['pictures']} images differ from fastai's under Pillow {result['trained']['pillow']}"
    bad = [f"{what}{e}: {n}: {len(o)} {rest}: {', '.join(o[:3])}" for e, by in result['differ'].items()
           for n, o in by.items()]
    return bad + [f'{what}{e}: answers differ by {d:.1e}' for e, d in result['far'].items() if not d <= TOLERANCE]

def combinations(sides):
    "(folder, versions) of all that is run: each side under each Pillow; the last one under each numpy and onnxruntime."
    oldest = [(p, for_python(p)[0]) for p in VERSIONS]    # all together
    res = [(s, o) for s in sides for o in (oldest, *([('pillow', v)] for v in for_python('pillow')))]
    return res + [(sides[-1], [(p, v)]) for p in ('numpy', 'onnxruntime') for v in for_python(p)]

def say(result):
    n = {e: sum(map(len, by.values())) for e, by in result['differ'].items()}
    v = ', '.join(f'{k} {v}' for k, v in result['versions'].items())
    return (f"fastai {result['trained']['fastai']}, Pillow {result['trained']['pillow']}, run under {v}: of "
            f"{result['tried']} images {n['model']} (model) and {n['pixels']} (pixels) differ, answers by "
            f"{max(result['far'].values()):.1e}")

def matrix(whole=True, pythons=(), workers=2):
    "Every combination, then bundles made by other Pythons that have fastai: a list of results."
    with tempfile.TemporaryDirectory(prefix='matrix-') as tmp, ThreadPoolExecutor(workers) as pool:
        call(python_of('dev'), '--pictures', Path(tmp)/'pictures')
        pictures = images_of(Path(tmp)/'pictures')
        todo = [(f'pillow-{v}', v, None) for v in TRAINED if v in for_python('pillow')]
        todo += [(f'python-{i}', None, o) for i, o in enumerate(pythons)]
        sides = [*pool.map(lambda o: make_side(Path(tmp)/o[0], o[1], pictures, whole, o[2]), todo)]
        n = len(sides) - len(pythons)
        def go(o):
            print(say(r := run_side(o[0], *o[1])), flush=True)
            return r
        return [*pool.map(go, combinations(sides[:n]) + [(s, []) for s in sides[n:]])]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--table', action='store_true', help='write nbs/reference/versions.json')
    p.add_argument('--trained-by', type=Path, nargs='*', default=[], metavar='PYTHON',
                   help='Pythons of other environments with fastai, whose bundles are tried too')
    p.add_argument('--few', action='store_true', help='one transform of each kind, as the tests do')
    for o in ('make', 'run', 'pictures'): p.add_argument(f'--{o}', type=Path, help=argparse.SUPPRESS)
    p.add_argument('--whole', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.pictures: return print(json.dumps(make_images(a.pictures)))
    if a.make:
        pictures = json.loads((a.make/'todo.json').read_text(encoding='utf-8'))
        return print(json.dumps(make(a.make, pictures, a.whole)))
    if a.run: return print(json.dumps(run(a.run)))
    t = time.time()
    results = matrix(not a.few, [python_of('latest'), *a.trained_by])
    bad = [o for r in results for o in faults(r)]
    if a.table and not bad:
        made_by = dict(python=platform.python_version(), system=f'{platform.system()} {platform.machine()}')
        TABLE.write_text(json.dumps(dict(made_by=made_by, results=results), indent=1) + '\n', encoding='utf-8')
    print(*bad, f'\nin {time.time() - t:.0f} s\n{len(results)} combinations, {len(bad)} faults', sep='\n')
    sys.exit(1 if bad or not results else 0)

if __name__ == '__main__': main()
