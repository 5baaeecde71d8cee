"""Speed, cold start and size of a bundle against fastai, side by side in one run. Look at the ratios: times vary.

    make bench        (or python tools/bench.py --rounds 30 --photo my.jpg)"""
import argparse, json, statistics, subprocess, sys, tempfile, time, warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import onnxruntime as ort
from env import python_of
from PIL import Image

COLD = {
    'fastai': 'from fastai.vision.all import *; learn = load_learner({pkl!r})\n'
              'with learn.no_bar(): print(learn.predict({photo!r})[0])',
    'bundle': 'import fastai_deploy as fd; print(fd.load({bundle!r}).predict({photo!r}).label)',
}
RESIZE = """
import numpy as np, onnxruntime as ort
def peak(): return [int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM')][0]
session = ort.InferenceSession({file!r})
x = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
before = peak()
session.run(None, {{'picture': x}})
print((peak() - before)*1024/1e6)
"""
PEAK = """
from pathlib import Path
status = Path('/proc/self/status')   # Linux; elsewhere there is no such file, and no figure
peak = [o.split()[1] for o in status.read_text().splitlines() if o.startswith('VmHWM')] if status.exists() else ['nan']
print('peak', *peak)
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

def seconds(f):
    "How long one call takes."
    t = time.perf_counter()
    f()
    return time.perf_counter() - t

def interleaved(fs, rounds):
    "Median seconds of each function; each round calls all of them in another order, so that none is favoured."
    for f in fs.values(): f()
    times, orders = {k: [] for k in fs}, list(permutations(fs))
    for i in range(rounds):
        for k in orders[i % len(orders)]: times[k].append(seconds(fs[k]))
    return {k: statistics.median(v) for k, v in times.items()}

def bare(model):
    "The least that must be done: decode, item ops, one bare `session.run`."
    from fastai_deploy.run.item_tfms import apply_item, to_array
    def f(path):
        img = Image.open(path).convert('RGB')
        return model.session.run(None, {'image': to_array(apply_item(model.spec.item, img))[None]})[0]
    return f

def cold(python, code):
    "Seconds and peak memory (MB) of a fresh process that predicts once."
    t = time.perf_counter()
    out = subprocess.run([str(python), '-W', 'ignore', '-c', code + PEAK], capture_output=True, text=True,
                         cwd=tempfile.gettempdir())
    took = time.perf_counter() - t
    if out.returncode: sys.exit(out.stderr)
    return took, float(out.stdout.split('peak')[-1])*1024/1e6

def pixels_graph(path, method, threads):
    "The item transforms of pixels.onnx alone, for a `Resize(224)`: its op, and a session in the file `path`."
    from fastai_deploy.graph.pixels import item_model
    from fastai_deploy.run.spec import Input, Output, Spec
    from fastai_deploy.run.item_tfms import pillow_order
    op = dict(op='resize', size=[224, 224], method=method, pad_mode='reflection', resample='bilinear',
              order=pillow_order())
    path.write_bytes(item_model(Spec(Input([224, 224]), [op], [], {}, Output([1], 'identity'))))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads    # 0: as many as there are cores
    return op, ort.InferenceSession(path, options)

def resizing(method, w, h, threads, rounds, tmp):
    "Median seconds of the graph and of Pillow for one picture of noise in memory."
    from fastai_deploy.run.item_tfms import apply_item, to_array
    op, session = pixels_graph(tmp/f'{method}.onnx', method, threads)
    a = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    img = Image.fromarray(a)
    return interleaved({'graph': lambda: session.run(None, {'picture': a}),
                        'Pillow': lambda: to_array(apply_item([op], img))}, rounds)

def call_mb(file):
    "Memory that one call at 4000x3000 adds to a process (MB); only Linux tells."
    if not Path('/proc/self/status').exists(): return float('nan')
    out = subprocess.run([str(python_of('run')), '-c', RESIZE.format(file=str(file))], capture_output=True, text=True)
    if out.returncode: sys.exit(out.stderr)
    return float(out.stdout)

def size_mb(folder):
    "Size of a folder of packages, in MB."
    return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file() and not p.is_symlink())/1e6

def site_packages(name):
    "Where environment `name` has its packages."
    code = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    out = subprocess.run([str(python_of(name)), '-c', code], capture_output=True, text=True, check=True)
    return Path(out.stdout.strip())

def row(what, a, b, fmt, aim):
    "One line of the table."
    print(f'{what:62} {fmt(a):>11} {fmt(b):>11} {a/b:>8.3g}   {aim}')
    return dict(what=what, a=a, b=b, ratio=a/b, aim=aim)

def bench(photo, rounds, cold_rounds, tmp):
    "Run everything and print the table."
    import fastai_deploy as fd
    learn = a_learner(photo, tmp)
    bundle = fd.export(learn, tmp/'bundle', goldens=2, progress=False)
    learn.export((tmp/'learn.pkl').resolve())
    model = fd.load(bundle)
    run, path = bare(model), str(photo)
    with learn.no_bar(), learn.no_logging():
        t = interleaved({'fastai': lambda: learn.predict(path), 'ours': lambda: model.predict(path),
                         'bare': lambda: run(path)}, rounds)
    names = dict(pkl=str(tmp/'learn.pkl'), bundle=str(bundle), photo=path)
    jobs = {'fastai': (python_of('latest'), COLD['fastai'].format(**names)),
            'bundle': (python_of('run'), COLD['bundle'].format(**names))}
    runs = {k: [] for k in jobs}
    for i in range(cold_rounds + 1):
        for k, job in jobs.items():
            r = cold(*job)
            if i: runs[k].append(r)   # the first run of each fills the disk cache
    wall, peak = ({k: statistics.median(o[i] for o in v) for k, v in runs.items()} for i in (0, 1))
    sizes = {k: size_mb(site_packages(k)) for k in ('latest', 'run')}
    ms, s, mb = (lambda x: f'{x*1e3:.1f} ms'), (lambda x: f'{x:.2f} s'), (lambda x: f'{x:,.0f} MB')
    print(f'\n{"resnet18, 460 → 224, one 500x375 JPEG":62} {"first":>11} {"second":>11} {"ratio":>8}   aim')
    resized = {k: resizing(*k, rounds if k[1] < 1000 else rounds//4+1, tmp)
               for k in (('squish', 500, 375, 0), ('crop', 500, 375, 0), ('squish', 500, 375, 1),
                         ('squish', 4000, 3000, 0), ('squish', 4000, 3000, 1))}
    rows = [row('learn.predict / bundle predict', t['fastai'], t['ours'], ms, '>= 2.5'),
            row('bundle predict / decode + item ops + bare session.run', t['ours'], t['bare'], ms, '<= 1.10'),
            row('cold start to the first answer: fastai / bundle', wall['fastai'], wall['bundle'], s, '>= 8'),
            row('peak memory of that process: fastai / bundle', peak['fastai'], peak['bundle'], mb, ''),
            row('packages installed: run side / fastai', sizes['run'], sizes['latest'], mb, '<= 0.125')]
    for (method, w, h, threads), o in resized.items():
        what = f'pixels.onnx / Pillow: {method} of {w}x{h} to 224, {"one thread" if threads else "all cores"}'
        aim = '' if threads else '<= 1.5' if w < 1000 else '<= 3'
        rows.append(row(what, o['graph'], o['Pillow'], lambda x: f'{x*1e3:.2f} ms', aim))
    used = call_mb(tmp/'squish.onnx')
    return [*rows, row('memory of that call at 4000x3000 / of the picture', used, 36., mb, '<= 400 MB')]

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
