"Each op has one name, and an entry everywhere: the schema, capture, the code that applies it, the graph."
import pytest

fv = pytest.importorskip('fastai.vision.all')

import numpy as np
import torch
from PIL import Image, ImageOps

from fastai_deploy.nets.batch_tfms import BATCH_OPS, batch_module
from fastai_deploy.learner.tfms import BATCH_TFMS, ITEM_TFMS
from fastai_deploy.run.custom_ops import registered_op, register_op
from fastai_deploy.graph.export_onnx import export_onnx
from fastai_deploy.graph.pixels import PIXEL_OPS
from fastai_deploy.run.session import make_session
from fastai_deploy.run.schema import op_names
from fastai_deploy.run.item_tfms import ITEM_OPS, apply_item, check_item

ITEM = [fv.Resize(9), fv.RandomResizedCrop(8), fv.CropPad(7), fv.RatioResize(8)]
BATCH = [fv.IntToFloatTensor(), fv.AffineCoordTfm(size=16), fv.RandomResizedCropGPU(12),
         fv.Normalize.from_stats(*fv.imagenet_stats)]

@register_op('tests.invert', transform=f'{__name__}.Invert')
def invert(img): return ImageOps.invert(img)

class Invert: pass

def captured(known, tfms):
    "op name -> op, as capture writes each transform down."
    return {o['op']: o for o in (known[type(t)](t) for t in tfms)}

@pytest.mark.filterwarnings('ignore:RatioResize')
def test_item_ops():
    ops = captured(ITEM_TFMS, ITEM)
    ops['custom'] = registered_op(Invert())
    assert set(op_names('item')) == set(ITEM_OPS) == set(ops) == set(PIXEL_OPS)
    check_item(list(ops.values()))
    for op in ops.values(): assert apply_item([op], Image.new('RGB', (30, 20))).mode == 'RGB'

def test_batch_ops(tmp_path):
    ops = captured(BATCH_TFMS, BATCH)
    assert set(op_names('batch')) == set(BATCH_OPS) == set(ops)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    export_onnx(list(ops.values()), net, tmp_path/'model.onnx', (20, 24))
    x = np.random.default_rng(0).integers(0, 255, (2, 3, 20, 24), dtype=np.uint8)
    ours = make_session((tmp_path/'model.onnx').read_bytes()).run(None, {'image': x})[0]
    with torch.no_grad(): theirs = net(batch_module(list(ops.values()), (20, 24))(torch.tensor(x))).softmax(-1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
