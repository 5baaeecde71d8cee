"""Speed, cold start and size of a bundle against fastai, side by side in one run. Look at the ratios: times vary.

    make bench        (or python tools/bench.py --rounds 30 --photo my.jpg)"""
import argparse, json, statistics, subprocess, sys, tempfile, time, warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import onnxruntime as ort
from env import python_of
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.graph.pixels import item_model
from fastai_deploy.run.item_tfms import apply_item, pillow_order, to_array
from fastai_deploy.run.spec import Input, Output, Spec

PEAK = """
def peak():    # in MB, on Linux; elsewhere there is no such file, and no figure
    try: return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM'))*1024/1e6
    except OSError: return float('nan')
"""
COLD = {    # environment -> its first answer, and the memory that it took
    'latest': 'from fastai.vision.all import *; learn = load_learner({pkl!r})\n'
              'with learn.no_bar(): learn.predict({photo!r})\nprint(peak())',
    'run': 'import fastai_deploy as fd; fd.load({bundle!r}).predict({photo!r})\nprint(peak())',
}
RESIZE = """
import numpy as np, onnxruntime as ort
session = ort.InferenceSession({file!r})
x = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
before = peak()
session.run(None, {{'picture': x}})
print(peak() - before)
"""

def a_photo(path):
    "A JPEG of a photo's size and detail, drawn: hills of noise in several sizes."
    rng = np.random.default_rng(0)
    layers = [Image.fromarray(rng.integers(0, 255, (375//s+1, 500//s+1, 3), dtype=np.uint8)).resize((500, 375), 3)
              for s in (64, 16, 4, 1)]
    Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).save(path, quality=90)
    return path

def a_learner(photo, folder):
    "fastbook's presizing recipe on a resnet18 with random weights, 37 classes."
    warnings.filterwarnings('ignore', category=FutureWarning)   # torch's, about itself
    import fastai.vision.all as fv
    files = []
    for i in range(37):
        files.append(folder/'train'/f'class{i:02}'/'a.jpg')
        files[-1].parent.mkdir(parents=True)
        files[-1].write_bytes(photo.read_bytes())
    batch = [*fv.aug_transforms(size=224, min_scale=.75), fv.Normalize.from_stats(*fv.imagenet_stats)]
    dls = fv.ImageDataLoaders.from_path_func(folder, files*2, fv.parent_label, valid_pct=.5, seed=0, bs=8,
                                             num_workers=0, item_tfms=fv.Resize(460), batch_tfms=batch)
    return fv.vision_learner(dls, fv.resnet18, pretrained=False)

def interleaved(fs, rounds):
    "Median seconds of each function; each round calls all of them in another order, so that none is favoured."
    for f in fs.values(): f()
    times, orders = {k: [] for k in fs}, list(permutations(fs))
    for i in range(rounds):
        for k in orders[i % len(orders)]:
            t = time.perf_counter()
            fs[k]()
            times[k].append(time.perf_counter() - t)
    return {k: statistics.median(v) for k, v in times.items()}

def bare(model):
    "The least that must be done: decode, item ops, one bare `session.run`."
    def f(path):
        img = Image.open(path).convert('RGB')
        return model.session.run(None, {'image': to_array(apply_item(model.spec.item, img))[None]})[0]
    return f

def fresh(name, code):
    "Seconds that some code takes in a fresh process of environment `name`, and the last line that it prints."
    t = time.perf_counter()
    out = subprocess.run([python_of(name), '-W', 'ignore', '-c', PEAK + code], capture_output=True, text=True,
                         cwd=tempfile.gettempdir())
    if out.returncode: sys.exit(out.stderr)
    return time.perf_counter() - t, out.stdout.splitlines()[-1]

def resizing(method, w, h, threads, rounds, tmp):
    "Median seconds of a `Resize(224)` in the graph of pixels.onnx and in Pillow, for one image of noise in memory."
    path = tmp/f'{method}.onnx'
    op = dict(op='resize', size=[224, 224], method=method, pad_mode='reflection', resample='bilinear',
              order=pillow_order())
    path.write_bytes(item_model(Spec(Input([224, 224]), [op], [], {}, Output([1], 'identity'))))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads    # 0: as many as there are cores
    session = ort.InferenceSession(path, options)
    a = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    img = Image.fromarray(a)
    return interleaved({'graph': lambda: session.run(None, {'picture': a}),
                        'Pillow': lambda: to_array(apply_item([op], img))}, rounds)

def packages_mb(name):
    "Size of the packages in environment `name`, in MB."
    folder = Path(fresh(name, 'import sysconfig; print(sysconfig.get_paths()["purelib"])')[1])
    return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file() and not p.is_symlink())/1e6

def row(what, a, b, fmt, aim):
    print(f'{what:62} {fmt(a):>11} {fmt(b):>11} {a/b:>8.3g}   {aim}')
    return dict(what=what, a=a, b=b, ratio=a/b, aim=aim)

def bench(photo, rounds, cold_rounds, tmp):
    "Run everything and print the table."
    learn = a_learner(photo, tmp)
    bundle = fd.export(learn, tmp/'bundle', goldens=2, progress=False)
    learn.export((tmp/'learn.pkl').resolve())
    model = fd.load(bundle)
    run, path = bare(model), str(photo)
    with learn.no_bar(), learn.no_logging():
        t = interleaved({'fastai': lambda: learn.predict(path), 'ours': lambda: model.predict(path),
                         'bare': lambda: run(path)}, rounds)
    names = dict(pkl=str(tmp/'learn.pkl'), bundle=str(bundle), photo=path)
    runs = [[fresh(env, code.format(**names)) for env, code in COLD.items()] for _ in range(cold_rounds + 1)]
    cold = np.median(np.array(runs[1:], float), axis=0)    # the first run of each fills the disk cache
    (wall, peak), sizes = cold.T, [packages_mb(o) for o in COLD]
    ms, s, mb = (lambda x: f'{x*1e3:.1f} ms'), (lambda x: f'{x:.2f} s'), (lambda x: f'{x:,.0f} MB')
    print(f'\n{"resnet18, 460 → 224, one 500x375 JPEG":62} {"first":>11} {"second":>11} {"ratio":>8}   aim')
    resized = {k: resizing(*k, rounds if k[1] < 1000 else rounds//4+1, tmp)
               for k in (('squish', 500, 375, 0), ('crop', 500, 375, 0), ('squish', 500, 375, 1),
                         ('squish', 4000, 3000, 0), ('squish', 4000, 3000, 1))}
    rows = [row('learn.predict / bundle predict', t['fastai'], t['ours'], ms, '>= 2.5'),
            row('bundle predict / decode + item ops + bare session.run', t['ours'], t['bare'], ms, '<= 1.10'),
            row('cold start to the first answer: fastai / bundle', *wall, s, '>= 8'),
            row('peak memory of that process: fastai / bundle', *peak, mb, ''),
            row('packages installed: run side / fastai', *sizes[::-1], mb, '<= 0.125')]
    for (method, w, h, threads), o in resized.items():
        what = f'pixels.onnx / Pillow: {method} of {w}x{h} to 224, {"one thread" if threads else "all cores"}'
        aim = '' if threads else '<= 1.5' if w < 1000 else '<= 3'
        rows.append(row(what, o['graph'], o['Pillow'], lambda x: f'{x*1e3:.2f} ms', aim))
    used = float(fresh('run', RESIZE.format(file=str(tmp/'squish.onnx')))[1])
    return [*rows, row('memory of that call at 4000x3000 / of the image', used, 36., mb, '<= 400 MB')]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--photo', type=Path, help='a JPEG to predict on; one is drawn by default')
    p.add_argument('--rounds', type=int, default=60, help='calls of each predictor')
    p.add_argument('--cold-rounds', type=int, default=5, help='fresh processes of each kind')
    p.add_argument('--json', type=Path, help='write the figures to this file, too')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        rows = bench(a.photo or a_photo(tmp/'photo.jpg'), a.rounds, a.cold_rounds, tmp)
    if a.json: a.json.write_text(json.dumps(rows, indent=1, default=float), encoding='utf-8')

if __name__ == '__main__': main()
