"""`make demo`: train the sample model, export it, prove it, then predict where there is no fastai and no torch.

Everything that it makes is in demo_out/."""
import json, os, subprocess, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')     # idle threads sleep: kind to a busy machine
warnings.filterwarnings('ignore', category=FutureWarning)   # torch, about its own future

from env import ROOT, python_of

OUT = ROOT/'demo_out'
ELSEWHERE = '''
import json, sys
import fastai_deploy as fd
bundle, *files = sys.argv[1:]
model = fd.load(bundle)
preds = [model.predict(f) for f in files]
heavy = sorted({'torch', 'fastai', 'timm'} & set(sys.modules))
print(json.dumps(dict(python=sys.executable, heavy=heavy, preds=[(p.label, float(p.probs.max())) for p in preds])))
'''

def step(n, text): print(f'\n{n}. {text}', flush=True)

def elsewhere(bundle, files):
    "Predict in the environment that has numpy, Pillow and onnxruntime only."
    r = subprocess.run([python_of('run'), '-I', '-c', ELSEWHERE, bundle, *files], cwd=OUT, capture_output=True,
                       text=True, encoding='utf-8')
    if r.returncode: sys.exit(r.stderr)
    return json.loads(r.stdout.splitlines()[-1])

def main():
    t = time.time()
    OUT.mkdir(exist_ok=True)
    bundle = OUT/'digits'
    step(1, 'Train a small net on scikit-learn\'s digits, written as JPEG files')
    import fastai_deploy as fd
    from fastai_deploy.samples.train import train_digits
    learn = train_digits()
    learn.export(OUT.resolve()/'digits.pkl')

    step(2, f'fd.export(learn, "{bundle.relative_to(ROOT).as_posix()}")')
    fd.export(learn, bundle, overwrite=True)
    for f in sorted(o for o in bundle.rglob('*') if o.is_file() and o.parent == bundle):
        print(f'   {f.name:22}{f.stat().st_size/1024:10.1f} KB')

    items = list(learn.dls.valid_ds.items)
    step(3, f'fd.verify(bundle, learn, items): {len(items)} validation images, against learn.predict')
    print(fd.verify(bundle, learn, items).table())

    step(4, 'Predict in an environment with numpy, Pillow and onnxruntime only')
    files = items[::max(1, len(items)//8)][:8]
    said = elsewhere(bundle, files)
    print(f'   {said["python"]}\n   torch, fastai, timm imported there: {", ".join(said["heavy"]) or "none of them"}')
    print(f'   {"file":24}{"there":>8}{"prob":>8}   learn.predict')
    agree = 0
    for f, (label, prob) in zip(files, said['preds']):
        with learn.no_bar(), learn.no_logging(): own, _, probs = learn.predict(f)
        agree += own == label and abs(float(probs.max()) - prob) <= 1e-5
        name = '/'.join(Path(f).parts[-2:])
        print(f'   {name:24}{label:>8}{prob:8.4f}   {own} {float(probs.max()):.4f}')
    if agree != len(files): sys.exit(f'only {agree} of {len(files)} agree')

    exe = python_of('dev').parent/'fastai-deploy'
    step(5, f'Done in {time.time() - t:.0f} s: all {agree} agree. The same bundle as a web page:')
    print(f'   {exe.relative_to(ROOT)} demo {bundle.relative_to(ROOT)}')

if __name__ == '__main__': main()
