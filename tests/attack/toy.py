"Small bundles of every task, made by hand: graph, goldens and proof, without torch."
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.run.replay import replay
from fastai_deploy.samples.toys import goldens_of, toy_bundle

TASKS = dict(classification=5, multilabel=5, regression=2, points=4, segmentation=4, image_to_image=3)  # numbers

def photo(seed):
    small = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC)

@lru_cache
def toy(task='classification'):
    "(spec, files) of a bundle whose proof holds."
    n = TASKS[task]
    weights = np.random.default_rng(3).normal(size=(n, 3)).T
    def bundle(path, files=()):
        return toy_bundle(path, task, weights=weights, vocab=list('abcdefg'[:n]), size=(16, 12), method='crop',
                          threshold=.5 if task == 'multilabel' else None, files=files)
    with TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        files = goldens_of(bundle(tmp/'a'), [photo(0), photo(1)])
        files['parity.json'] = replay(fd.load(bundle(tmp/'b', files))).check().to_json().encode()
        b = fd.open_bundle(bundle(tmp/'c', files))
        return b.spec, {name: b.read(name) for name in b.spec.files}

def spoilt(rng, data, most=8):
    "Some bits turned, some bytes changed, cut out or put in."
    data = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at, how = rng.randrange(len(data)+1), rng.randrange(5)
        if how == 0: data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif how == 1: del data[at:at+rng.randint(1, 9)]
        elif how == 2: data[at:at+1] = bytes([rng.choice([0, 1, 0x7f, 0x80, 0xff])])
        elif how == 3: data[at:at+1] = bytes(o ^ 1 << rng.randrange(8) for o in data[at:at+1])
        else: data[at:at+4] = rng.randbytes(4)
    return bytes(data)
