"""Runs in the environment that has only numpy, Pillow and onnxruntime: the installed package, from outside.

    python -I outside.py BUNDLE PHOTO_FOLDER     prints one JSON object

What may not be imported is watched from before the first import; reading a pickle raises."""
import importlib, json, pkgutil, sys
from importlib.metadata import distributions
from pathlib import Path

FORBIDDEN = set('torch torchvision fastai fastcore timm onnx onnxscript safetensors nbdev gradio pandas scipy '
                'sklearn matplotlib'.split())
tried = []    # forbidden packages that somebody tried to import, and who

class Watch:
    "An import hook that finds nothing and writes down what was asked for."
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in FORBIDDEN:
            f = sys._getframe(1)
            while f.f_back and 'importlib' in f.f_code.co_filename: f = f.f_back
            tried.append(f'{name} by {Path(f.f_code.co_filename).name}')

sys.meta_path.insert(0, Watch())
try: import torch  # noqa: F401
except ImportError: pass
assert tried, 'the watch does not see imports'
tried.clear()

import pickle   # numpy imports it; reading one is what is not allowed

def refuse(*a, **k): raise AssertionError('a pickle was read')
pickle.load = pickle.loads = pickle.Unpickler = refuse
import numpy as np

_load = np.load
def careful(*a, allow_pickle=False, **k):
    if allow_pickle: refuse()
    return _load(*a, **k)
np.load = careful

def main(bundle, photos):
    import fastai_deploy as fd
    assert Path(fd.__file__).is_relative_to(sys.prefix), f'not the installed package: {fd.__file__}'
    mods = sorted(o.name for o in pkgutil.walk_packages(fd.__path__, 'fastai_deploy.') if not o.ispkg)
    for m in mods:
        if m.split('.')[1] in ('run', 'serving') or m == 'fastai_deploy.learner.verify': importlib.import_module(m)
    model = fd.load(bundle)
    goldens = model.goldens()
    dif = max(float(np.abs(model.predict(g.image).probs - np.asarray(g.probs)).max()) for g in goldens)
    labels = [model.predict(g.image).label == g.label for g in goldens]
    asked = [*tried]
    report = fd.verify(bundle)   # asks for torch once, to run the weights, and says that it is not there
    assert list(report.left) == ['weights.safetensors'] and 'is not installed' in report.left['weights.safetensors']
    files = sorted(p for p in Path(photos).rglob('*.jpg')) if photos else []
    preds = model.predict_batch(files, progress=False)
    loaded = sorted(FORBIDDEN & {o.split('.')[0] for o in sys.modules})
    print(json.dumps(dict(
        modules=mods, tried=asked, loaded=loaded, goldens=len(goldens), golden_difference=dif, labels_equal=all(labels),
        table=report.table(), installed=sorted(o.metadata['Name'].lower().replace('-', '_') for o in distributions()),
        predictions=[dict(file=str(f), label=p.label, probs=np.asarray(p.probs).tolist())
                     for f, p in zip(files, preds)])))

if __name__ == '__main__': main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
