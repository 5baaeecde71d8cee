"What a model may be: the walk over the protobuf against its corpus, real graphs, and the exporters' own source."
import re, sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxscript, torch = pytest.importorskip('onnxscript'), pytest.importorskip('torch')

from onnx import helper as h

import fastai_deploy as fd
from conftest import resealed
from fastai_deploy.graph import pillow_resize, pixels
from fastai_deploy.run import guard
from fastai_deploy.run.guard import OPERATORS, check_model
from fastai_deploy.run.session import tap

sys.path.insert(0, str(Path(__file__).parent/'attack'))
import models

BUILT = {(kind, name): o for kind, f in models.CLASSES.items() for name, o in f().items()}

@pytest.mark.parametrize('kind,name', BUILT)
def test_refused(kind, name):
    "Every model of the corpus that is built by hand, in one line that names the file and the way out."
    o = BUILT[kind, name]
    data = o if isinstance(o, bytes) else o.SerializeToString()
    with pytest.raises(fd.BundleError) as e: check_model(data, 'model.onnx')
    assert re.fullmatch(r"model\.onnx: .+: no exporter of fastai_deploy writes that; ops='any' .+", str(e.value))
    assert check_model(data, 'model.onnx', ops='any') is None

WHY = {'control flow': 'operator (Loop|Scan|SequenceConstruct|SequenceMap)|with a graph|nested more',
       'functions': 'nested more|nodes|twice|operator f.f|instead of Relu|never called|that it needs|another number',
       'floods': r'elements|pads|strides|output_shape|hidden_size|operator (HannWindow|OneHot|CenterCropPad)|scales',
       'fatal numbers': 'by zero|blocksize|batch_dims|operator (OneHot|RoiAlign)|group 0|strides 0|dilations 0|axis|'
                        'num_outputs|given twice|nothing gives|another number of names'}

@pytest.mark.parametrize('kind', WHY)
def test_why(kind):
    "For what it was built for, not for something by the way."
    for (k, name), o in BUILT.items():
        if k != kind: continue
        with pytest.raises(fd.BundleError, match=WHY[kind]): check_model(o.SerializeToString(), name)

@pytest.mark.parametrize('file', ['model.onnx', 'pixels.onnx'])
def test_real(digits_bundle, file):
    "What our exporters write passes, also with inner values as outputs."
    data = (digits_bundle/file).read_bytes()
    check_model(data, file)
    check_model(tap(data, 'net_input', 'logits'), file)

def test_any_ops(digits_bundle, tmp_path):
    "`ops='any'` holds for every graph that is run, also when the whole bundle is proven."
    unknown = b'\x80\x7d\x01'   # field 2000, which onnxruntime skips
    strange = resealed(digits_bundle, tmp_path/'b', {
        n: (digits_bundle/n).read_bytes() + unknown for n in ('model.onnx', 'pixels.onnx')})
    with pytest.raises(fd.BundleError, match='field 2000'): fd.load(strange)
    assert 'pixels.onnx' in fd.verify(fd.load(strange, ops='any')).files

def test_far_from_the_limits(digits_bundle):
    "The largest graph of the sample has a tenth of what is allowed."
    data = (digits_bundle/'pixels.onnx').read_bytes()
    r = guard._Reader(data)
    walk = guard._Walk(r, r.message(0, len(data), 'model')).walk()
    assert walk.nodes > 100 and walk.nodes*10 < guard.NODES
    assert (guard.FIELDS - r.left)*10 < guard.FIELDS and walk.elements*10 < guard.ELEMENTS

# --- the list is what the exporters can write

NOT_OURS = dict(
    loops='Loop SequenceMap',
    random='Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike',
    sequences='ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert '
              'SequenceLength SplitToSequence OptionalGetElement OptionalHasElement',
    training='NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss', boxes='MaxRoiPool RoiAlign NonMaxSuppression',
    sound='STFT BlackmanWindow HammingWindow HannWindow', fatal='OneHot', older='Scatter Upsample',
    newer='AffineGrid Attention Gelu RMSNormalization')

def source(module, pattern):
    return '\n'.join(o.read_text(encoding='utf-8') for o in sorted(Path(module.__file__).parent.glob(pattern)))

def writable():
    "The standard operators that torch's two exporters name in their source, and ours."
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ''}
    dynamo = source(onnxscript, 'function_libs/torch_lib/ops/*.py')
    dynamo += source(torch.onnx, '_internal/exporter/_torchlib/ops/*.py')
    older = source(torch.onnx, '_internal/torchscript_exporter/*.py')
    ours = ''.join(Path(o.__file__).read_text(encoding='utf-8') for o in (pixels, pillow_resize))
    return known & {*re.findall(r'\bop\d*\.([A-Z]\w+)\(', dynamo + ours),
                    *re.findall(r'''["'](?:onnx::)?([A-Z]\w+)["']''', older)}

def test_operators():
    "A newer exporter tells us what it writes: put it on the list, or on the one above."
    out = {o for names in NOT_OURS.values() for o in names.split()}
    assert writable() - out == OPERATORS

# --- real nets with uncommon layers

@pytest.mark.parametrize('name', ['convnext_atto', 'mobilevit_xxs', 'ghostnet_050'])   # `make zoo` runs all families
def test_nets(name, tmp_path):
    "Attention, LSTMs, global context: what timm has for images passes."
    from fastai_deploy.graph.export_onnx import export_onnx
    torch.manual_seed(0)
    net = pytest.importorskip('timm').create_model(name, pretrained=False, num_classes=5).eval()
    export_onnx([dict(op='int_to_float', div=255.)], net, tmp_path/'model.onnx', (64, 64))
    check_model((tmp_path/'model.onnx').read_bytes(), name)

def test_export_tells():
    "The exporter asks the guard: a graph that `load` would refuse is none, and the operator is named."
    from fastai_deploy.graph.to_onnx import tidy
    x, y = h.make_tensor_value_info('image', 1, [1, 3]), h.make_tensor_value_info('probs', 1, [1, 3])
    for op, ok in (('Relu', True), ('RandomNormalLike', False)):
        g = h.make_graph([h.make_node(op, ['image'], ['probs'])], 'g', [x], [y])
        m = h.make_model(g, opset_imports=[h.make_opsetid('', 18)], ir_version=9)
        if ok: tidy(m)
        else:
            with pytest.raises(fd.UnsupportedError, match=op): tidy(m)

def test_names_are_not_obeyed():
    "A name in a file, with whatever is in it, stays in the one line of the error."
    m = models.model([models.node('Relu', 'x', 'y')])
    m.graph.node[0].input[0] = 'a\n\x1b[2J'
    with pytest.raises(fd.BundleError, match=r'a\\u000a\\u001b\[2J, which nothing gives'):
        check_model(m.SerializeToString(), 'model.onnx')

# --- speed

def test_weights_are_skipped():
    "As many fields are read of 100 MB of weights as of ten numbers."
    def read(n):
        w = onnx.numpy_helper.from_array(np.zeros(n, np.float32), 'w')
        data = models.model([h.make_node('Add', ['x', 'w'], ['y'])], [w]).SerializeToString()
        r = guard._Reader(data)
        r.message(0, len(data), 'model')
        return guard.FIELDS - r.left
    assert read(25_000_000) == read(10)

def test_optional():
    "Which inputs an operator may do without, as onnx has it."
    kinds = onnx.defs.OpSchema.FormalParameterOption
    schemas = {op: onnx.defs.get_schema(op, guard.OPSET) for op in OPERATORS}
    want = {op: next((i for i, o in enumerate(s.inputs) if o.option == kinds.Optional), None)
            for op, s in schemas.items()}
    assert guard._OPTIONAL == {op: i for op, i in want.items() if i is not None}

def test_drawn():
    "The drawn part of the corpus: the same for the same seed, and its sound models are answered."
    a, b = (list(models.cases(seed=3, n=9)) for _ in range(2))
    assert a == b and [o for o in models.cases(seed=4, n=9)] != a
    sound = [case for kind, case in a if kind == 'sound']
    assert len(sound) == 3 and {models.attack(o, None) for o in sound} == {'answered'}

def test_only_a_sandbox_tells():
    "What is left to the sandbox passes the walk; if it no longer does, the README may promise more."
    for name, data in models.sandbox_models().items(): check_model(data, name)

@pytest.mark.parametrize('damage', [models.damaged_graph, lambda rng, m: models.one_node(rng),
                                    lambda rng, m: models.spoilt(rng, m.SerializeToString(), 5)])
def test_one_line(damage):
    "Nothing but `BundleError` comes out of the walk, and it says one line."
    import random
    rng, said = random.Random(0), 0
    for _ in range(300):
        try: check_model(damage(rng, models.net()), 'model.onnx')
        except fd.BundleError as e: said += '\n' not in str(e)
    assert said
