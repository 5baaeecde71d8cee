"Nets that somebody has done something to: rebuilt in all their parts or exported as they are, or refused by name."
from functools import partial

import numpy as np
import pytest
from test_tasks import dataloaders, files, fit, mask, CODES  # noqa: F401 (`files` is a fixture)

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
from conftest import refused, same_answers
import onnxruntime as ort
import timm
import torch
from fastai.callback.hook import hook_output
from fastai_deploy.nets.batch_tfms import batch_module
from fastai_deploy.learner.capture import capture
from fastai_deploy.nets.pipeline import Deployed
from fastai_deploy.graph.export_onnx import export_onnx
from fastai_deploy.graph.float_noise import float_noise, limits_for
from fastai_deploy.graph.to_onnx import EXPORTERS, check_graph, tidy
from fastai_deploy.run.basics import one_line
from fastai_deploy.nets.describe import describe_net
from fastai_deploy.nets.unet import describe_unet, plain_copy
from torch import nn
from torch.nn.utils import parametrize
from torchvision import models

OPS = [dict(op='int_to_float', div=255.), dict(op='normalize', mean=[.485, .456, .406], std=[.229, .224, .225])]

class Clip(nn.Module):
    "A user's ReLU with a lid on."
    def forward(self, x): return x.clamp(0, 3)

class Twice(nn.Module):
    "A parametrization."
    def forward(self, w): return w*2

class Centred(nn.Module):
    "What an image has more than the average of its batch."
    def forward(self, x): return x - x.mean(0, keepdim=True)

class Detour(nn.Module):
    "Far away and back: what float32 does not survive."
    def __init__(self, by):
        super().__init__()
        self.by = by
    def forward(self, x): return (x+self.by) - self.by

def swap(root, name, new):
    parent, _, last = name.rpartition('.')
    setattr(root.get_submodule(parent), last, new)

def vision(arch, **kwargs):
    if isinstance(arch, str): return fv.create_timm_model(arch, 4, pretrained=False, lin_ftrs=[8], **kwargs)[0].eval()
    return fv.create_vision_model(arch, 4, pretrained=False, lin_ftrs=[8], **kwargs).eval()

# --- the parts of a net that have no weights

NETS = {'timm': ('test_resnet', '0.model.layer2.0.act1'),
        'torchvision': (models.squeezenet1_1, '0.0.3.squeeze_activation'),
        'torchvision on timm': (models.resnet18, '0.5.0.relu'),
        'xresnet': (partial(fv.xresnet18, widen=.125), '0.5.1.act')}

@pytest.mark.parametrize('kind', NETS)
def test_activation(kind):
    "One activation is another: whether noise shows it or not, the net is exported as it is, and the layer is named."
    arch, place = NETS[kind]
    model = vision(arch)
    assert describe_net(model, arch, size=(32, 32))['source'] != 'opaque'
    for act in (Clip(), nn.Hardtanh(0, 20), nn.ReLU6()):
        swap(model, place, act)
        net = describe_net(model, arch, size=(32, 32))
        assert net['source'] == 'opaque' and f"'{place}'" in net['why'] and '\n' not in net['why']

def _hook(m): m[1][4].register_forward_hook(lambda m, x, y: y.clamp(max=50))
def _pre_hook(m): m[0].register_forward_pre_hook(lambda m, x: (x[0].clamp(-50, 50),))
def _forward(m): m[0].model.layer1.forward = lambda x: nn.Sequential.forward(m[0].model.layer1, x).clamp(max=50)
def _method(m): m[0].model.forward_features = lambda x: type(m[0].model).forward_features(m[0].model, x).clamp(max=50)
def _parametrized(m): parametrize.register_parametrization(m[1][-1], 'weight', Twice())
def _argument(m): m[0].model.maxpool.ceil_mode = True    # the same at even sizes
def _more(m): m[0].model.layer1.append(nn.Hardtanh(-50, 50))
def _less(m): m[0].model.layer4[0].act2 = nn.Identity()
def _head(m): m[1].append(nn.Hardtanh(-50, 50))

CHANGES = {_hook: "'1.4'", _pre_hook: "'0' is a TimmBody with a hook", _forward: "'0.model.layer1'",
           _method: 'forward_features', _parametrized: "'1.8'", _argument: "'0.model.maxpool' has ceil_mode True",
           _more: "'0.model.layer1.1'", _less: "'0.model.layer4.0.act2'", _head: 'Hardtanh'}

@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__[1:])
def test_structure(change):
    model = vision('test_resnet')
    change(model)
    net = describe_net(model, size=(32, 32))
    assert net['source'] == 'opaque' and CHANGES[change] in net['why'], net

def _drop(m): m[0].model.layer1[0].drop_path = timm.layers.DropPath(.2)
def _fastai_hook(m): hook_output(m[0])
def _dropout(m): m[1][3].p = .9
def _momentum(m): m[0].model.bn1.momentum = .01

@pytest.mark.parametrize('change', [_drop, _fastai_hook, _dropout, _momentum], ids=lambda f: f.__name__[1:])
def test_training_only(change):
    "What is about training changes nothing: the net is rebuilt."
    model = vision('test_resnet')
    change(model)
    assert describe_net(model, size=(32, 32))['source'] == 'timm'

def test_exports_right(files, tmp_path):  # noqa: F811
    "With another activation the bundle has the net as it is, and answers as `learn.predict` does."
    learn = fv.vision_learner(dataloaders(files, fv.CategoryBlock, fv.parent_label), 'test_resnet', pretrained=False)
    swap(learn.model, '0.model.layer1.0.act1', nn.ReLU6())
    swap(learn.model, '0.model.layer2.0.act1', Clip())
    with pytest.warns(UserWarning, match="'0.model.layer2.0.act1' is a Clip"):
        bundle = fd.export(learn, tmp_path/'b', goldens=2, progress=False)
    model = fd.load(bundle)
    assert model.spec.net['source'] == 'opaque' and not (bundle/'weights.safetensors').exists()
    same_answers(model, learn, files[:1])

# --- U-Nets

def unet(): return fv.create_unet_model(partial(timm.create_model, 'test_resnet'), 3, (32, 32), pretrained=False).eval()

def _encoder(m): m.layers[0][3] = nn.AvgPool2d(2)
def _encoder_act(m): m.layers[0][4][0].act1 = nn.ReLU6()
def _decoder_act(m): m.layers[5].relu = nn.ReLU6()
def _unet_hook(m): m.layers[3].register_forward_hook(lambda m, x, y: y.clamp(max=50))
def _resize(m): next(o for o in m.layers if type(o).__name__ == 'ResizeToOrig').mode = 'bilinear'
def _hooked_again(m):
    m.layers[0][2] = nn.ReLU6()
    m.layers[7].hook = hook_output(m.layers[0][2], detach=False)

UNETS = {_encoder: "'layers.0.3' is a AvgPool2d", _encoder_act: "'layers.0.4.0.act1'", _decoder_act: "'layers.5.relu'",
         _unet_hook: "'layers.3'", _resize: 'bilinear', _hooked_again: "'layers.0.2'"}

@pytest.mark.parametrize('change', UNETS, ids=lambda f: f.__name__[1:])
def test_unet(change):
    model, arch = unet(), partial(timm.create_model, 'test_resnet')
    assert describe_unet(model, arch, size=(32, 32))['source'] == 'timm'
    change(model)
    copy = plain_copy(model)
    net = describe_unet(copy, arch, size=(32, 32))
    assert net['source'] == 'opaque' and UNETS[change] in net['why'], net
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(copy(x), model(x).as_subclass(torch.Tensor))

def test_unet_hook_lost(files):  # noqa: F811
    "A layer with a skip was replaced: fastai goes on with an old image's, so there is nothing to export."
    dls = dataloaders(files, fv.MaskBlock(CODES), mask)
    learn = fv.unet_learner(dls, partial(timm.create_model, 'test_resnet'), pretrained=False)
    learn.model.layers[0][2] = nn.ReLU6()
    with pytest.raises(fd.UnsupportedError, match="'layers.7' of the U-Net waits for a layer of the encoder"):
        capture(learn)

# --- an image alone, and among others

def small(*more, n_out=4):
    "A small net; `more` goes before its last layer."
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         *more, nn.Linear(8, n_out)).eval()

def unkept():
    net = small()
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return net

class AlwaysDrop(nn.Module):
    def forward(self, x): return nn.functional.dropout(x, .5, training=True)

@pytest.mark.parametrize('net, said', [
    (lambda: small(Centred()), r"differently in a batch than alone, because of 'net.5' \(Centred\)"),
    (lambda: nn.Sequential(small(), Centred()), r"because of 'net.1' \(Centred\)"),
    (unkept, r"because of 'net.1' \(BatchNorm2d\)"),
    (lambda: small(AlwaysDrop()), r"something else each time, because of 'net.5' \(AlwaysDrop\)"),
    (lambda: small(Detour(1e7)), "float32's rounding alone changes what the net answers")])
def test_unlike_itself(tmp_path, net, said):
    "A net that answers otherwise in a batch, the second time, or in double precision; nothing is left behind."
    with refused(fd.UnsupportedError, said): export_onnx(OPS, net(), tmp_path/'m.onnx', (32, 32))
    assert not list(tmp_path.iterdir())

def test_batch_honest(tmp_path):
    "Batch norm in evaluation, attention, group norm: all of them ask the image alone."
    attention = nn.Unflatten(1, (1, 8)), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), nn.Flatten()
    for net in (small(), small(*attention), small(nn.GroupNorm(2, 8))):
        export_onnx(OPS, net.eval(), tmp_path/'m.onnx', (32, 32))

# --- errors in one line

class Refuses(nn.Module):
    def forward(self, x):
        if x.shape[-1] != 32: raise ValueError('\x1b[31mno\x1b[0m\n\n   such size')
        return x.mean((2, 3))

def test_one_line(tmp_path):
    assert one_line(ValueError('\x1b[1;31mred\x1b[0m\n and\tblue')) == 'red and blue'
    with pytest.raises(fd.UnsupportedError, match=r'take 40x40 images: check the size \(no such size\)$'):
        export_onnx(OPS, Refuses(), tmp_path/'m.onnx', (40, 40))

@pytest.mark.parametrize('net', [lambda: torch.jit.script(small()), lambda: nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(7), torch.jit.script(Clip()), nn.Flatten())])
def test_exporters_in_one_line(tmp_path, net):
    "What the exporters say comes in colours and in paragraphs."
    with refused(fd.UnsupportedError, 'the trouble is in') as e:
        export_onnx(OPS, net().eval(), tmp_path/'m.onnx', (32, 32))
    assert '\x1b' not in str(e.value)

# --- the noise of float32

def deployed(net, activation='softmax'): return Deployed(batch_module(OPS, (32, 32)), net, activation).eval()

def pictures(n):
    g = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, 3, 32, 32), generator=g).to(torch.uint8)

def test_noise():
    noises = [float_noise(deployed(small(Detour(by))), [pictures(4)]) for by in (1, 1e3, 1e6)]
    raw, answers = zip(*noises)
    assert raw[0] < 1e-5 < raw[1] < 1e-2 < raw[2] and answers[0] < answers[1] < answers[2]
    assert torch.get_default_dtype() == torch.float32

def test_noise_is_granted(tmp_path):
    "A noisy net is exported, its noise is stated, and a wrong graph of it is found."
    net = small(Detour(1e3))
    info = export_onnx(OPS, net, tmp_path/'m.onnx', (32, 32), activation='identity')
    assert len(info['noise']) == 2 and 1e-5 < info['noise'][0] < 1e-2
    m, x = deployed(net, 'identity'), pictures(4)
    with torch.no_grad():
        graph = tidy(EXPORTERS['torchscript'](m, x[:2], {0: 'batch'}))
        check_graph(graph, m, [x], limits_for(info['noise']))
        net[-1].weight *= 1.05
        with pytest.raises(fd.UnsupportedError, match='differ'): check_graph(graph, m, [x], limits_for(info['noise']))

def test_amplified(tmp_path):
    "Large logits are no noise: what they are in proportion to is large, too."
    net = small()
    with torch.no_grad(): net[-1].weight *= 1e5
    info = export_onnx(OPS, net, tmp_path/'m.onnx', (32, 32))
    assert info['noise'][0] < 1e-5

@pytest.mark.parametrize('bias', [0, 100.])
def test_one_output(tmp_path, bias):
    "A regression near zero, and one far away from it: what counts is how the answers differ."
    net = small(n_out=1)
    with torch.no_grad():
        x = net(batch_module(OPS, (32, 32))(pictures(4)))
        net[-1].bias += bias - x.mean()
    info = export_onnx(OPS, net, tmp_path/'m.onnx', (32, 32), activation='identity')
    got, = ort.InferenceSession(tmp_path/'m.onnx').run(None, {'image': pictures(4).numpy()})
    with torch.no_grad(): np.testing.assert_allclose(got, deployed(net, 'identity')(pictures(4))[0], atol=1e-4)
    with torch.no_grad():
        m = deployed(net, 'identity')
        graph = tidy(EXPORTERS['torchscript'](m, pictures(2), {0: 'batch'}))
        net[-1].weight *= 1.05    # far away, that is little of the answer, and all that there is to know
        with pytest.raises(fd.UnsupportedError, match='differ'):
            check_graph(graph, m, [torch.cat([pictures(2), pictures(2)//9])], limits_for(info['noise']))

def test_one_output_rebuilt():
    for arch in ('test_resnet', partial(fv.xresnet18, widen=.125)):
        model = vision(arch)
        model[1][-1] = nn.Linear(8, 1)
        with torch.no_grad(): model[1][-1].weight *= 1e-6; model[1][-1].bias *= 0
        assert describe_net(model, arch, size=(32, 32))['source'] != 'opaque'
