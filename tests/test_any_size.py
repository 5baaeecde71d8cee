"""A net of any size has a smallest one. Below it onnxruntime may divide by zero, and the process is gone: hence a child
process that tries sizes from 1x1 on, with both engines."""
import json, sys

import numpy as np
import pytest
from PIL import Image

import fastai_deploy as fd
from conftest import ROOT, said

fv = pytest.importorskip('fastai.vision.all')

from fastai_deploy.samples.digits import digits

CHILD = '''
import json, sys
import numpy as np
import fastai_deploy as fd
refused, answered, sizes = [], [], [1, 2, 3, 5, 7, 12, 16, 17, 18, 24, 30, 31, 33, 47, 62, 64, 75]
for engine in ('model', 'pixels'):
    model = fd.load(sys.argv[1], engine=engine)
    images = {(h, w): np.full((h, w, 3), 99, np.uint8) for h in sizes for w in sizes}
    for size, a in zip(images, model.predict_batch(images.values(), batch_size=5)):
        (refused if isinstance(a, fd.ImageError) else answered).append([*size])
        if not isinstance(a, fd.ImageError): assert len(a.probs) == 10, (size, a)
        try: model.predict(images[size])
        except fd.ImageError as e: assert isinstance(a, fd.ImageError), (size, e)
        else: assert not isinstance(a, fd.ImageError), (size, a)
print(json.dumps([model.spec.input.min_size, refused, answered]))
'''

@pytest.mark.parametrize('arch', ['squeezenet1_1', 'alexnet'])
def test_small_images(arch, tmp_path):
    "No size ends the process; what is refused is what the spec says."
    files = sorted(fv.get_image_files(digits()))[::60]
    dls = fv.ImageDataLoaders.from_path_func(digits(), files, fv.parent_label, seed=1, bs=1, num_workers=0,
                                             batch_tfms=fv.Normalize.from_stats(*fv.imagenet_stats))
    big = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (90, 101, 3), np.uint8)) for i in range(2)]
    learn = fv.vision_learner(dls, getattr(fv.models, arch), pretrained=False)
    bundle = fd.export(learn, tmp_path/'b', goldens=big, dynamic_hw=True, progress=False)
    (h, w), refused, answered = json.loads(said(sys.executable, '-c', CHILD, bundle, cwd=ROOT))
    assert h > 7 and w > 7 and answered and refused
    assert all(a < h or b < w for a, b in refused) and all(a >= h and b >= w for a, b in answered)
