"Hostile and damaged ONNX files: what the walk over the protobuf refuses, onnxruntime refuses, or answers; nothing dies."
import random
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

from fastai_deploy.guard import check_model
from fastai_deploy.pixels import pixels_model
from fastai_deploy.runtime import make_session
from fastai_deploy.spec import BundleError, Input, Output, Spec

# --- building

def ints(name, *o, dims=None): return h.make_tensor(name, T.INT64, [len(o)] if dims is None else dims, o)
def floats(name, *o, dims=None): return h.make_tensor(name, T.FLOAT, [len(o)] if dims is None else dims, o)
def i32(name, *o): return h.make_tensor(name, T.INT32, [len(o)], o)
def node(op, x, y, **kw): return h.make_node(op, x.split(), y.split(), **kw)
def info(name, kind=T.FLOAT, dims=None): return h.make_tensor_value_info(name, kind, dims)

def model(nodes, inits=(), out='y', x=(1, 3, 8, 8), kind=T.FLOAT, functions=(), domains=()):
    "A model from `x` to `out`; what `out` is, is not said."
    g = h.make_graph(list(nodes), 'g', [info('x', kind, x)], [onnx.ValueInfoProto(name=out)], list(inits))
    ids = [h.make_opsetid('', 18), *(h.make_opsetid(d, 1) for d in domains)]
    return h.make_model(g, ir_version=9, opset_imports=ids, functions=list(functions))

def function(name, nodes, domain='f', x='x', y='y'):
    "A model-local function."
    return h.make_function(domain, name, x.split(), y.split(), list(nodes),
                           [h.make_opsetid('', 18), h.make_opsetid(domain, 1)])

def filled(size): return [node('ConstantOfShape', 's', 'big', value=floats('v', 1.)), node('ReduceSum', 'big', 'z'),
                          node('Add', 'x z', 'y')], [ints('s', *size)]

# --- each class by itself: name -> model

def loops():
    "Control flow that no exporter of ours writes, and what stands in it."
    cond, many = h.make_tensor('c', T.BOOL, [], [1]), h.make_tensor('n', T.INT64, [], [2**62])
    body = h.make_graph([node('Identity', 'c_in', 'c_out'), node('Add', 'v_in v_in', 'v_out')], 'b',
                        [info('i', T.INT64, []), info('c_in', T.BOOL, []), info('v_in')],
                        [info('c_out', T.BOOL, []), info('v_out')])
    scan = h.make_graph([node('Add', 'a b', 'c')], 'b', [info('a'), info('b')], [info('c')])
    each = h.make_graph([node('Identity', 'a', 'b')], 'b', [info('a')], [info('b')])
    loop, then = node('Loop', 'n c x', 'y', body=body), node('Identity', 'x', 'y')
    branch = [h.make_graph([o], 'b', [], [info('y')]) for o in (loop, then)]
    seq = [node('SequenceConstruct', 'x x', 's'), node('SequenceMap', 's', 't', body=each),
           node('ConcatFromSequence', 't', 'y', axis=0)]
    f = function('f', [node('Constant', '', 'n', value=many), node('Constant', '', 'c', value=cond), loop])
    return {'Loop': model([loop], [cond, many]), 'Scan': model([node('Scan', 'x', 'y', body=scan, num_scan_inputs=1)]),
            'SequenceMap': model(seq), 'Loop in a function': model([h.make_node('f', ['x'], ['y'], domain='f')],
                                                                  functions=[f], domains=['f']),
            'Loop in an If': model([node('If', 'c', 'y', then_branch=branch[0], else_branch=branch[1])], [cond, many]),
            'If in If in If …': nested(25)}

def nested(depth):
    "`If`s in `If`s."
    cond, inner = h.make_tensor('c', T.BOOL, [], [1]), node('Identity', 'x', 'y')
    for _ in range(depth):
        a, b = (h.make_graph([o], 'b', [], [info('y')]) for o in (inner, node('Identity', 'x', 'y')))
        inner = node('If', 'c', 'y', then_branch=a, else_branch=b)
    return model([inner], [cond])

def foreign():
    "Operators and domains that no exporter of ours writes."
    def one(op, domain='', x='x', **kw):
        return model([h.make_node(op, x.split(), ['y'], domain=domain, **kw)], domains=[domain] if domain else [])
    text = h.make_tensor('t', T.STRING, [1], [b'a'])
    return {'com.microsoft': one('Gelu', 'com.microsoft'), 'ai.onnx.ml': one('Normalizer', 'ai.onnx.ml', norm='MAX'),
            'training': one('Gradient', 'ai.onnx.preview.training', xs=['x'], y='y'),
            'nchwc': one('ReorderInput', 'com.microsoft.nchwc'), 'unknown domain': one('f', 'evil'),
            'unknown operator': one('Frobnicate'), 'random numbers': one('RandomNormalLike'),
            'sequence': one('SequenceConstruct'), 'optional': one('Optional'), 'text': model([node('StringConcat', 't t', 'y')], [text]),
            'a table of words': one('TfIdfVectorizer'), 'image decoder': one('ImageDecoder'),
            'aten': one('ATen', 'org.pytorch.aten', operator='relu')}

def functions():
    "Functions that call themselves, nest deeply, or grow to more nodes than a file could hold."
    def call(f, x='x', y='y', domain='f'): return h.make_node(f, x.split(), y.split(), domain=domain)
    def top(fs): return model([call(fs[0].name)], functions=fs, domains=['f'])
    def chain(n, times):
        fs = []
        for i in range(n):
            names = ['x', *(f't{k}' for k in range(times - 1)), 'y']
            fs.append(function(f'f{i}', [call(f'f{i+1}', a, b) for a, b in zip(names, names[1:])]))
        return [*fs, function(f'f{n}', [node('Relu', 'x', 'y')])]
    plain, std = function('f', [node('Relu', 'x', 'y')]), function('Relu', [node('Neg', 'x', 'y')], '')
    return {'calls itself': top([function('f', [call('f')])]),
            'call each other': top([function('f', [call('g')]), function('g', [call('f')])]),
            'nests 1000 deep': top(chain(1000, 1)), 'doubles 40 times': top(chain(40, 2)),
            'tenfold 9 times': top(chain(9, 10)), 'stands there twice': top([plain, plain]),
            'instead of an operator': model([node('Relu', 'x', 'y')], functions=[std]), 'is not there': model([call('f')], domains=['f']),
            'a thousand functions': top([plain, *(function(f'g{i}', [node('Relu', 'x', 'y')]) for i in range(2000))]),
            'through an attribute': through()}

def through():
    "A size that comes to a function as an attribute of the call."
    c = h.make_node('Constant', [], ['s'])
    c.attribute.append(onnx.AttributeProto(name='value_ints', type=onnx.AttributeProto.INTS, ref_attr_name='n'))
    f = h.make_function('f', 'f', ['x'], ['y'], [c, *filled([1])[0]], [h.make_opsetid('', 18)], ['n'])
    return model([h.make_node('f', ['x'], ['y'], domain='f', n=[2**30])], functions=[f], domains=['f'])

def floods():
    "A few bytes that ask for gigabytes."
    big, n = 2**30, 2**31 - 1
    red = node('ReduceSum', 'b', 'z'), node('Add', 'x z', 'y')
    one = floats('o', 1.)
    def by(op, more, **kw): return model([node(op, more[0], 'b', **kw), *red], more[1])
    two = [node('Mul', 's s', 't'), node('ConstantOfShape', 't', 'b', value=one), *red]
    f = function('f', [node('ConstantOfShape', 's', 'b', value=floats('v', 1.)), node('ReduceSum', 'b', 'y')], x='s')
    cat = [node('Concat', 's s', 't', axis=0), node('ConstantOfShape', 't', 'b', value=one), *red]
    return {'ConstantOfShape': by('ConstantOfShape', ('s', [ints('s', big)]), value=one),
            'ConstantOfShape of many': by('ConstantOfShape', ('s', [ints('s', *[64]*5)]), value=one),
            'overflow': by('ConstantOfShape', ('s', [ints('s', 2**32, 2**32)]), value=one),
            'negative': by('ConstantOfShape', ('s', [ints('s', -5)]), value=one),
            'Expand': by('Expand', ('o s', [one, ints('s', big)])), 'Tile': by('Tile', ('o s', [one, ints('s', big)])),
            'Range': by('Range', ('a e d', [floats('a', 0., dims=[]), floats('e', 1e9, dims=[]), floats('d', 1., dims=[])])),
            'Range by tiny steps': by('Range', ('a e d', [floats('a', 0., dims=[]), floats('e', 1., dims=[]), floats('d', 1e-9, dims=[])])),
            'Range of whole numbers': by('Range', ('a e d', [ints('a', 0, dims=[]), ints('e', 10**9, dims=[]), ints('d', 1, dims=[])])),
            'Range by no steps': by('Range', ('a e d', [ints('a', 0, dims=[]), ints('e', 10**9, dims=[]), ints('d', 0, dims=[])])),
            'Resize by sizes': model([h.make_node('Resize', ['x', '', '', 's'], ['b']), *red], [ints('s', 1, 3, 32768, 32768)]),
            'Resize by scales': model([h.make_node('Resize', ['x', '', 's'], ['b']), *red], [floats('s', 1, 1, 4096, 4096)]),
            'Pad': by('Pad', ('x s', [ints('s', 0, 0, 0, 0, 0, 0, 20000, 20000)])),
            'OneHot': by('OneHot', ('i s v', [ints('i', 1), ints('s', big, dims=[]), floats('v', 0, 1)])),
            'EyeLike of ConstantOfShape': model([node('ConstantOfShape', 's', 'c'), node('EyeLike', 'c', 'b'), *red], [ints('s', 40000, 40000)]),
            'pads of a Conv': model([h.make_node('Conv', ['x', 'w'], ['b'], pads=[20000]*4), *red], [floats('w', 1, 1, 1, dims=[1, 3, 1, 1])]),
            'pads of a MaxPool': model([h.make_node('MaxPool', ['x'], ['b'], kernel_shape=[40000, 40000], pads=[30000]*4), *red]),
            'strides of a ConvTranspose': model([h.make_node('ConvTranspose', ['x', 'w'], ['b'], strides=[5000, 5000]), *red], [floats('w', 1, 1, 1, dims=[3, 1, 1, 1])]),
            'output_shape of a ConvTranspose': model([h.make_node('ConvTranspose', ['x', 'w'], ['b'], output_shape=[40000, 40000]), *red], [floats('w', 1, 1, 1, dims=[3, 1, 1, 1])]),
            'hidden_size': model([node('Squeeze', 'x ax', 'q'), h.make_node('LSTM', ['q', 'w', 'w'], ['b'], hidden_size=2**30), *red], [ints('ax', 0), floats('w', 1, dims=[1, 1, 1])]),
            'HannWindow': by('HannWindow', ('s', [ints('s', big, dims=[])])),
            'CenterCropPad': by('CenterCropPad', ('x s', [ints('s', 1, 3, 20000, 20000)])),
            'dft_length': model([h.make_node('DFT', ['w', 's'], ['b'], axis=1), *red], [floats('w', 1, dims=[1, 1, 1]), ints('s', 2**28, dims=[])]),
            'a product': model(two, [ints('s', 2**15, 1), one]), 'a list put together': model(cat, [ints('s', 2**15), one]),
            'the argument of a function': model([h.make_node('f', ['s'], ['z'], domain='f'), node('Add', 'x z', 'y')], [ints('s', 2**30)], functions=[f], domains=['f']),
            'in a branch': model([node('If', 'c', 'z', then_branch=h.make_graph([node('ConstantOfShape', 's', 'z')], 'b', [], [info('z')]),
                                       else_branch=h.make_graph([node('Identity', 'x', 'z')], 'b', [], [info('z')])), node('ReduceSum', 'z', 'r'), node('Add', 'x r', 'y')],
                                 [ints('s', 2**30), h.make_tensor('c', T.BOOL, [], [1])]),
            'a Constant node': model([h.make_node('Constant', [], ['s'], value_ints=[2**30]), *filled([1])[0]]),
            'the size of an input': model([node('Relu', 'x', 'y')], x=(1, 3, 2**20, 2**20)),
            'Upsample': model([node('Upsample', 'x s', 'b'), *red], [floats('s', 1, 1, 4096, 4096)]),
            'TopK': model([h.make_node('TopK', ['x', 's'], ['b', 'i']), *red], [ints('s', 2**40)])}

# --- one operator with arguments that nobody means

F, I = np.float32, np.int64
X = np.arange(192, dtype=F).reshape(1, 3, 8, 8)/192
ONE = np.ones((2, 3, 3, 3), F)
NODES = dict(
    Conv=([X, ONE], dict(kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], pads=[1]*4, group=1)),
    ConvTranspose=([X, np.ones((3, 2, 2, 2), F)], dict(kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1], pads=[0]*4,
                                                      group=1, output_padding=[0, 0], output_shape=[16, 16])),
    MaxPool=([X], dict(kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1], pads=[0]*4, ceil_mode=0, storage_order=0)),
    AveragePool=([X], dict(kernel_shape=[2, 2], strides=[2, 2], pads=[0]*4, ceil_mode=0, count_include_pad=0)),
    BatchNormalization=([X, *[np.ones(3, F)]*4], dict(epsilon=1e-5, momentum=.9)),
    InstanceNormalization=([X, *[np.ones(3, F)]*2], dict(epsilon=1e-5)),
    LayerNormalization=([X, np.ones(8, F)], dict(axis=-1, epsilon=1e-5)), LRN=([X], dict(size=3)),
    Concat=([X, X], dict(axis=1)), Split=([X, np.array([1, 2], I)], dict(axis=1)), Softmax=([X], dict(axis=1)),
    LogSoftmax=([X], dict(axis=1)), Flatten=([X], dict(axis=1)), Transpose=([X], dict(perm=[0, 2, 3, 1])),
    Gather=([X, np.array([0, 1], I)], dict(axis=1)), GatherElements=([X, np.zeros((1, 1, 8, 8), I)], dict(axis=1)),
    GatherND=([X, np.zeros((1, 2), I)], dict(batch_dims=0)),
    ScatterElements=([X, np.zeros((1, 1, 8, 8), I), X[:, :1]], dict(axis=1)),
    ScatterND=([X, np.zeros((1, 1), I), X], dict(reduction='none')),
    DepthToSpace=([np.ones((1, 4, 2, 2), F)], dict(blocksize=2)), SpaceToDepth=([X], dict(blocksize=2)),
    ReduceMean=([X, np.array([2, 3], I)], dict(keepdims=1, noop_with_empty_axes=0)),
    ReduceMax=([X, np.array([2, 3], I)], dict(keepdims=1)), ReduceProd=([X, np.array([1], I)], dict(keepdims=1)),
    ReduceL2=([X, np.array([1], I)], dict(keepdims=1)), ReduceLogSumExp=([X, np.array([1], I)], dict(keepdims=1)),
    ArgMax=([X], dict(axis=1, keepdims=1, select_last_index=0)), TopK=([X, np.array([2], I)], dict(axis=1, largest=1)),
    CumSum=([X, np.array(1, I)], dict(exclusive=0, reverse=0)), Squeeze=([X, np.array([0], I)], {}),
    Unsqueeze=([X, np.array([0], I)], {}), Reshape=([X, np.array([1, -1], I)], dict(allowzero=0)),
    Expand=([X[:, :1], np.array([1, 3, 8, 8], I)], {}), Tile=([X, np.array([1, 1, 2, 2], I)], {}),
    Slice=([X, np.array([0], I), np.array([1], I), np.array([1], I), np.array([1], I)], {}),
    Pad=([X, np.array([0, 0, 1, 1, 0, 0, 1, 1], I)], dict(mode='reflect')),
    Range=([np.array(0, I), np.array(9, I), np.array(1, I)], {}), OneHot=([np.array([1], I), np.array(3, I), np.array([0, 1], F)], dict(axis=-1)),
    Trilu=([X, np.array(0, I)], dict(upper=1)), EyeLike=([X[0, 0]], dict(k=0, dtype=1)), Shape=([X], dict(start=0, end=1)),
    ConstantOfShape=([np.array([2], I)], {}), Resize=([X, None, np.array([1, 1, 2, 2], F)], dict(mode='linear', cubic_coeff_a=-.75)),
    GridSample=([X, np.zeros((1, 2, 2, 2), F)], dict(mode='bicubic', align_corners=0)),
    Einsum=([X, X], dict(equation='abcd,abcd->ab')), Gemm=([X[0, 0], X[0, 0]], dict(transA=0, transB=1, alpha=1., beta=1.)),
    MatMul=([X, X], {}), Cast=([X], dict(to=7)), CastLike=([X, np.array(1, I)], {}), Clip=([X, np.array(0, F), np.array(1, F)], {}),
    Div=([np.array([6, 7], I), np.array([2, 3], I)], {}), Mod=([np.array([6, 7], I), np.array([2, 3], I)], dict(fmod=0)),
    Mul=([np.array([6, 7], I), np.array([2, 3], I)], {}), Neg=([np.array([-2**63], I)], {}), Abs=([np.array([-2**63], I)], {}),
    Pow=([np.array([2, 3], I), np.array([2, 3], I)], {}), BitShift=([np.array([2, 3], np.uint32), np.array([1, 2], np.uint32)], dict(direction='LEFT')),
    LSTM=([X[0], np.ones((1, 8, 8), F), np.ones((1, 8, 2), F)], dict(hidden_size=2)), GRU=([X[0], np.ones((1, 6, 8), F), np.ones((1, 6, 2), F)], dict(hidden_size=2)),
    RNN=([X[0], np.ones((1, 2, 8), F), np.ones((1, 2, 2), F)], dict(hidden_size=2)),
    Col2Im=([np.ones((1, 4, 4), F), np.array([3, 3], I), np.array([2, 2], I)], dict(dilations=[1, 1], pads=[0]*4, strides=[1, 1])),
    DFT=([X[..., None], np.array(8, I)], dict(axis=1, inverse=0, onesided=0)),
    STFT=([X.reshape(1, -1, 1), np.array(4, I), np.ones(8, F), np.array(8, I)], dict(onesided=1)), HannWindow=([np.array(5, I)], dict(periodic=1)),
    GlobalMaxPool=([X], {}), GlobalAveragePool=([X], {}), PRelu=([X, np.ones((3, 1, 1), F)], {}), Det=([X], {}), NonZero=([X], {}),
    Unique=([X.ravel()], dict(axis=0, sorted=1)), Compress=([X, np.array([1, 0, 1], bool)], dict(axis=1)),
    QuantizeLinear=([X, np.array(1, F), np.array(0, np.uint8)], dict(axis=1)), DequantizeLinear=([np.ones((1, 3), np.uint8), np.array(1, F)], dict(axis=1)),
    MatMulInteger=([np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8), np.array(1, np.uint8)], {}), ConvInteger=([np.ones((1, 1, 4, 4), np.uint8), np.ones((1, 1, 2, 2), np.uint8)], dict(strides=[1, 1], dilations=[1, 1], group=1)),
    Dropout=([X, np.array(.5, F), np.array(True)], dict(seed=0)), MaxRoiPool=([X, np.zeros((1, 5), F)], dict(pooled_shape=[2, 2], spatial_scale=1.)),
    RoiAlign=([X, np.zeros((1, 4), F), np.zeros(1, I)], dict(output_height=2, output_width=2, sampling_ratio=0)),
    NonMaxSuppression=([np.zeros((1, 4, 4), F), np.ones((1, 1, 4), F), np.array(1, I)], {}), Where=([X > .5, X, X], {}),
    Mish=([X], {}), HardSigmoid=([X], dict(alpha=.2)), Selu=([X], dict(alpha=1.)), Multinomial=([np.ones((1, 3), F)], dict(sample_size=2, dtype=6)),
    CenterCropPad=([X, np.array([4, 4], I)], dict(axes=[2, 3])), LpPool=([X], dict(kernel_shape=[2, 2], p=2, strides=[1, 1], pads=[0]*4)),
    ReverseSequence=([X[0, 0], np.array([3]*8, I)], dict(batch_axis=1, time_axis=0)), MeanVarianceNormalization=([X], dict(axes=[0, 2, 3])),
)
EXTREMES = 0, -1, 1, 7, -2**63, 2**63-1, 2**31, 2**32, -2**31, 2**16

def changed(v, rng):
    "An argument as nobody means it: an attribute's value or an input's array."
    if isinstance(v, np.ndarray) and v.dtype == I:
        a, how = v.copy(), rng.randrange(5)
        if how == 0: return np.full_like(a, rng.choice(EXTREMES))
        if how == 1: return np.zeros([0]*max(a.ndim, 1), I)
        if how == 2: return np.tile(a, rng.choice((2, 40)))
        a.ravel()[rng.randrange(a.size)] = rng.choice(EXTREMES)
        return a
    if isinstance(v, np.ndarray):
        how = rng.randrange(5)
        if how == 0: return np.zeros([0]*v.ndim, v.dtype)
        if how == 1: return v.ravel()[:1].reshape([])
        if how == 2: return v[None]
        if how == 3: return v.astype(rng.choice([np.float64, np.float32, np.int64, np.int32, np.uint8, bool]))
        return np.full_like(v, rng.choice([0, 1, np.nan, np.inf]) if v.dtype.kind == 'f' else 0)
    if isinstance(v, list):
        how = rng.randrange(4)
        if how == 0: return [rng.choice(EXTREMES)]*len(v)
        if how == 1: return v[:1]
        if how == 2: return v*rng.choice((2, 20))
        return [rng.choice(EXTREMES) if i == rng.randrange(len(v)) else o for i, o in enumerate(v)]
    if isinstance(v, int): return rng.choice(EXTREMES)
    if isinstance(v, float): return rng.choice([0., -1., float('nan'), float('inf'), 1e38])
    return rng.choice(['', v.upper(), 'linear', 'wrap', 'a,b->', '...', '...i,...j->...ij', 'aaaa,bbbb->', 'cubic', 'x'*500])

def one_node(rng, op=None, times=None):
    "One operator, some of its arguments changed; half the time its inputs are fed, so that nothing is known at load."
    op = op or rng.choice(list(NODES))
    arrays, attrs = NODES[op]
    places = [*range(len(arrays)), *attrs]
    for k in rng.sample(places, min(len(places), times or rng.choice((1, 1, 1, 2, 3)))):
        if isinstance(k, str): attrs = {**attrs, k: changed(attrs[k], rng)}
        elif arrays[k] is not None: arrays = [changed(a, rng) if i == k else a for i, a in enumerate(arrays)]
    names = [f'i{k}' if a is not None else '' for k, a in enumerate(arrays)]
    inits = [onnx.numpy_helper.from_array(np.asarray(a), n) for a, n in zip(arrays, names) if n]
    first = inits[0]
    m = model([h.make_node(op, names, [f'y{i}' for i in range(2 if op in ('Split', 'TopK') else 1)], **attrs)], inits, 'y0')
    if rng.random() < .5:
        del m.graph.initializer[0]
        m.graph.input[0].CopyFrom(info(first.name, first.data_type, list(first.dims)))
    if rng.random() < .3: m.opset_import[0].version = rng.choice((7, 11, 13, 17, 20))
    return f'{op}', m

# --- whole models, to be damaged

@cache
def net():
    "A small net as an exporter writes one, and its pixels.onnx: bytes of both."
    rng = np.random.default_rng(0)
    def w(name, *dims): return onnx.numpy_helper.from_array(rng.normal(size=dims).astype(np.float32), name)
    inits = [w('mean', 1, 3, 1, 1), w('w1', 8, 3, 3, 3), w('b1', 8), *(w(o, 8) for o in ('g', 'b', 'm')),
             floats('v', *[1.]*8), w('w2', 8, 1, 3, 3), w('w3', 8, 4, 2, 2), w('w4', 5, 8), w('b4', 5),
             ints('shape', 0, -1), ints('s0', 0, 0), ints('s1', 9, 9), ints('ax', 2, 3), floats('sc', 1, 1, 2, 2),
             ints('pads', 0, 0, 1, 1, 0, 0, 1, 1), ints('two', 2), ints('parts', 4, 4)]
    pool = dict(kernel_shape=[2, 2], strides=[2, 2])
    nodes = [node('Cast', 'image', 'c', to=1), node('Sub', 'c mean', 'net_input'),
             node('Conv', 'net_input w1 b1', 'a1', kernel_shape=[3, 3], strides=[1, 1], pads=[1]*4, group=1),
             node('BatchNormalization', 'a1 g b m v', 'a2'), node('Relu', 'a2', 'a3'), node('MaxPool', 'a3', 'a4', **pool),
             node('Conv', 'a4 w2', 'a5', kernel_shape=[3, 3], dilations=[1, 1], pads=[1]*4, group=8),
             node('Add', 'a4 a5', 'a6'), node('Resize', 'a6  sc', 'a7', mode='nearest'),
             node('Pad', 'a7 pads', 'a8', mode='reflect'), node('Slice', 'a8 s0 s1 ax', 'a9'),
             node('Split', 'a9 parts', 'p q', axis=1), node('Sigmoid', 'p', 'p1'), node('Mul', 'p1 q', 'r'),
             node('Concat', 'r q', 'a10', axis=1), node('AveragePool', 'a10', 'a11', **pool),
             node('ConvTranspose', 'r w3', 't', strides=[2, 2]), node('ReduceMean', 'a11', 'a12', axes=[2, 3]),
             node('Shape', 'image', 'n', start=0, end=1), node('Div', 'n two', 'half'), node('Unsqueeze', 'half two0', 'u'),
             node('Reshape', 'a12 shape', 'a13'), node('Gemm', 'a13 w4 b4', 'logits', transB=1),
             node('Softmax', 'logits', 'probs', axis=1)]
    inits.append(ints('two0', 0))
    nodes = [o for o in nodes if not {'t', 'u'} & {*o.output}]
    g = h.make_graph(nodes, 'main', [info('image', T.UINT8, ['batch', 3, 16, 16])], [info('probs', T.FLOAT, ['batch', 5])],
                     inits)
    m = h.make_model(g, ir_version=8, opset_imports=[h.make_opsetid('', 18)])
    m = onnx.shape_inference.infer_shapes(m, strict_mode=True)
    ops = [dict(op='resize', size=[16, 16], method='crop', pad_mode='zeros', resample='bilinear', box_resample='bilinear',
                order='horizontal')]
    return m.SerializeToString(), ops
