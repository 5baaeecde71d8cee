"""Hostile and damaged ONNX files: the walk over the protobuf refuses them, onnxruntime does, or they are answered.

`CLASSES` are built one by one; `cases` adds single operators with absurd arguments and damaged copies of a real graph.
`sandbox_models` gives what no walk can tell: that is what `sandbox=True` is for."""
import random
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from toy import spoilt, toy

from fastai_deploy.run.write_bundle import write_bundle
from fastai_deploy.run.guard import OPERATORS, check_model
from fastai_deploy.graph.pixels import pixels_model
from fastai_deploy.run.loading import try_out
from fastai_deploy.run.session import make_session
from fastai_deploy.run.basics import BundleError
from fastai_deploy.run.spec import Input, Output, Spec

# --- building

def ints(name, *o, dims=None): return h.make_tensor(name, T.INT64, [len(o)] if dims is None else dims, o)
def floats(name, *o, dims=None): return h.make_tensor(name, T.FLOAT, [len(o)] if dims is None else dims, o)
def true(name): return h.make_tensor(name, T.BOOL, [], [True])
def info(name, kind=T.FLOAT, dims=None): return h.make_tensor_value_info(name, kind, dims)

def node(op, x, y, /, **kw):
    "A node; `x` and `y` are names, `_` stands for one that is left out."
    return h.make_node(op, [o.strip('_') for o in x.split()], y.split(), **kw)

def graph(*nodes, x=(), y='y'): return h.make_graph(nodes, 'g', x, [info(o) for o in y.split()])

def model(nodes, inits=(), out='y', x=(1, 3, 8, 8), functions=(), domain=None):
    "A model from `x` to `out`; what `out` is, is not said."
    g = h.make_graph(list(nodes), 'g', [info('x', T.FLOAT, x)], [onnx.ValueInfoProto(name=out)], list(inits))
    ids = [h.make_opsetid(d, 18 if d == '' else 1) for d in ('', domain) if d is not None]
    return h.make_model(g, ir_version=9, opset_imports=ids, functions=list(functions))

def function(name, *nodes, domain='f', x='x'):
    ids = [h.make_opsetid('', 18), h.make_opsetid(domain, 1)] if domain else [h.make_opsetid('', 18)]
    return h.make_function(domain, name, [x], ['y'], nodes, ids)

def call(f, x='x', y='y'): return node(f, x, y, domain='f')
def calling(*functions): return model([call(functions[0].name)], functions=functions, domain='f')

# --- each class by itself: name -> model

def control_flow():
    "What comes back never, or nobody knows when."
    body = graph(node('Identity', 'c_in', 'c_out'), node('Add', 'v_in v_in', 'v_out'), y='c_out v_out',
                 x=[info('i', T.INT64, []), info('c_in', T.BOOL, []), info('v_in')])
    body.output[0].CopyFrom(info('c_out', T.BOOL, []))
    inits, loop = [true('c'), ints('n', 2**62, dims=[])], node('Loop', 'n c x', 'y', body=body)
    add = graph(node('Add', 'a b', 'y'), x=[info('a'), info('b')])
    same = graph(node('Identity', 'a', 'y'), x=[info('a')])
    inside = [node('Constant', '', 'n', value=inits[1]), node('Constant', '', 'c', value=inits[0]), loop]
    branches = dict(then_branch=graph(loop), else_branch=graph(node('Identity', 'x', 'y')))
    seq = [node('SequenceConstruct', 'x x', 's'), node('SequenceMap', 's', 't', body=same),
           node('ConcatFromSequence', 't', 'y', axis=0)]
    return {'Loop': model([loop], inits), 'Loop in a function': calling(function('f', *inside)),
            'Loop in an If': model([node('If', 'c', 'y', **branches)], inits), 'If in If in If …': nested(25),
            'Scan': model([node('Scan', 'x', 'y', body=add, num_scan_inputs=1)]), 'SequenceMap': model(seq),
            'a graph where none belongs': model([node('Relu', 'x', 'y', body=same)])}

def nested(depth):
    inner = node('Identity', 'x', 'y')
    for _ in range(depth):
        inner = node('If', 'c', 'y', then_branch=graph(inner), else_branch=graph(node('Identity', 'x', 'y')))
    return model([inner], [true('c')])

def foreign():
    "Operators, domains and fields that no exporter of ours writes."
    def one(op, domain=None, /, **kw): return model([node(op, 'x', 'y', domain=domain, **kw)], domain=domain)
    external, sparse, training, noted = (model([node('Add', 'x w', 'y')], [floats('w', 1.)]) for _ in range(4))
    w = external.graph.initializer[0]
    w.ClearField('float_data')
    w.data_location = T.EXTERNAL
    w.external_data.add(key='location', value='../../etc/passwd')
    sparse.graph.sparse_initializer.add(dims=[9]).values.CopyFrom(floats('s', 1.))
    training.training_info.add().algorithm.CopyFrom(training.graph)
    noted.graph.quantization_annotation.add(tensor_name='w')
    old, text = model([node('Relu', 'x', 'y')]), h.make_tensor('t', T.STRING, [1], [b'a'])
    old.opset_import[0].version = 9
    return {'com.microsoft': one('Gelu', 'com.microsoft'), 'ai.onnx.ml': one('Normalizer', 'ai.onnx.ml', norm='MAX'),
            'training': one('Gradient', 'ai.onnx.preview.training', xs=['x'], y='y'), 'no operator': one('Frobnicate'),
            'nchwc': one('ReorderInput', 'com.microsoft.nchwc'), 'unknown domain': one('f', 'evil'),
            'random numbers': one('RandomNormalLike'), 'sequence': one('SequenceConstruct'),
            'optional': one('Optional'),
            'text': model([node('StringConcat', 't t', 'y')], [text]), 'table of words': one('TfIdfVectorizer'),
            'image decoder': one('ImageDecoder'), 'aten': one('ATen', 'org.pytorch.aten', operator='relu'),
            'weights in another file': external, 'sparse weights': sparse, 'training info': training,
            'quantization notes': noted, 'an old opset': old}

def functions():
    "Functions that call themselves, nest deeply, or grow to more nodes than a file could hold."
    relu = node('Relu', 'x', 'y')
    def chain(n, times):
        "A function that calls the next one `times`, `n` times over."
        names = ['x', *(f't{k}' for k in range(times - 1)), 'y']
        return [*(function(f'f{i}', *(call(f'f{i+1}', *o) for o in zip(names, names[1:]))) for i in range(n)),
                function(f'f{n}', relu)]
    f = function('f', relu)
    return {'calls itself': calling(function('f', call('f'))), 'stands there twice': calling(f, f),
            'call each other': calling(function('f', call('g')), function('g', call('f'))),
            'nests 1000 deep': calling(*chain(1000, 1)), 'doubles 40 times': calling(*chain(40, 2)),
            'tenfold 9 times': calling(*chain(9, 10)), 'is not there': model([call('f')], domain='f'),
            'instead of an operator': model([relu], functions=[function('Relu', node('Neg', 'x', 'y'), domain='')]),
            'lacks an input': calling(function('f', h.make_node('Max', ['x', ''], ['y']))),
            'is called without one': model([h.make_node('f', [], ['y'], domain='f')], functions=[f], domain='f'),
            'that nothing calls': calling(f, *(function(f'g{i}', relu) for i in range(2000)))}

def floods():
    "A few bytes that ask for gigabytes, or for years."
    big, one, fill = 2**30, floats('o', 1.), dict(value=floats('v', 1.))
    def by(op, x, *inits, **kw):
        "A model that holds what `op` makes of `x`."
        return model([node(op, x, 'b', **kw), node('ReduceSum', 'b', 'z'), node('Add', 'x z', 'y')], inits)
    def then(first, *inits, functions=()):
        "A model that fills what `first` says."
        nodes = [first, node('ConstantOfShape', 't', 'b', **fill), node('ReduceSum', 'b', 'z'), node('Add', 'x z', 'y')]
        return model(nodes, inits, functions=functions, domain='f' if functions else None)
    def steps(*o): return [floats(n, v, dims=[]) for n, v in zip('aed', o)]
    kernel, kernel_t = floats('w', 1, 1, 1, dims=[1, 3, 1, 1]), floats('w', 1, 1, 1, dims=[3, 1, 1, 1])
    filler = function('f', node('ConstantOfShape', 's', 't', **fill), node('ReduceSum', 't', 'y'), x='s')
    inside = function('f', node('Constant', '', 's'), node('ConstantOfShape', 's', 't', **fill),
                      node('ReduceSum', 't', 'z'), node('Add', 'x z', 'y'))
    inside.attribute.append('n')
    inside.node[0].attribute.add(name='value_ints', type=onnx.AttributeProto.INTS, ref_attr_name='n')
    through = calling(inside)
    through.graph.node[0].attribute.append(h.make_attribute('n', [big]))
    branch = dict(then_branch=graph(node('ConstantOfShape', 's', 'b'), y='b'),
                  else_branch=graph(node('Relu', 'x', 'b'), y='b'))
    rest = [node('ReduceSum', 'b', 'z'), node('Add', 'x z', 'y')]
    many = [node('ConstantOfShape', 's', f'b{i}', **fill) for i in range(99)]
    lies = model([node('Add', 'x w', 'y')], [floats('w', 1.)])
    lies.graph.initializer[0].dims[0] = 2**40
    wide = model([node('Relu', 'x', 'y')])
    wide.graph.value_info.append(info('v', T.FLOAT, [2**31, 2**31]))
    return {'ConstantOfShape': by('ConstantOfShape', 's', ints('s', big), **fill),
            'sizes that overflow': by('ConstantOfShape', 's', ints('s', 2**32, 2**32), **fill),
            'many of them': model([*many, node('Concat', ' '.join(f'b{i}' for i in range(99)), 'b', axis=0), *rest],
                                  [ints('s', 2**24)]),
            'Expand': by('Expand', 'o s', one, ints('s', big)), 'Tile': by('Tile', 'o s', one, ints('s', big)),
            'Range': by('Range', 'a e d', *steps(0, 1e9, 1)),
            'Range of tiny steps': by('Range', 'a e d', *steps(0, 1, 1e-9)),
            'Range of no steps': by('Range', 'a e d', *steps(0, 9, 0)),
            'HannWindow': by('HannWindow', 's', ints('s', big)),
            'Resize to sizes': by('Resize', 'x _ _ s', ints('s', 1, 3, 2**15, 2**15)),
            'Resize by scales': by('Resize', 'x _ s', floats('s', 1, 1, 4096, 4096)),
            'Pad': by('Pad', 'x s', ints('s', *[0]*6, 20000, 20000)),
            'OneHot': by('OneHot', 'i s v', ints('i', 1), ints('s', big, dims=[]), floats('v', 0, 1)),
            'CenterCropPad': by('CenterCropPad', 'x s', ints('s', 1, 3, 20000, 20000)),
            'DFT': by('DFT', 'w s', floats('w', 1, dims=[1, 1, 1]), ints('s', 2**28, dims=[]), axis=1),
            'pads of a Conv': by('Conv', 'x w', kernel, pads=[20000]*4),
            'pads of a MaxPool': by('MaxPool', 'x', kernel_shape=[40000]*2, pads=[30000]*4),
            'strides of a ConvTranspose': by('ConvTranspose', 'x w', kernel_t, strides=[5000]*2),
            'output_shape of a ConvTranspose': by('ConvTranspose', 'x w', kernel_t, output_shape=[40000]*2),
            'hidden_size': by('LSTM', 'q w w', floats('q', 1, dims=[1, 1, 1]), floats('w', 1, dims=[1, 1, 1]),
                              hidden_size=big),
            'a product': then(node('Mul', 's s', 't'), ints('s', 2**15)),
            'a list put together': then(node('Concat', 's s', 't', axis=0), ints('s', 2**15)),
            'a Constant': then(h.make_node('Constant', [], ['t'], value_ints=[big])),
            'a picked number': then(node('Gather', 's i', 't'), ints('s', 1, big), ints('i', 1)),
            'the argument of a function': model([call('f', 's', 'z'), rest[1]], [ints('s', big)], functions=[filler],
                                                domain='f'),
            'the attribute of a function': through, 'in a branch': model([node('If', 'c', 'b', **branch), *rest],
                                                                        [ints('s', big), true('c')]),
            'weights that are not there': lies,
            'the size of the input': model([node('Relu', 'x', 'y')], x=(1, 3, 2**20, 2**20)),
            'the size of a value': wide}

def fatal():
    "Numbers that ended the process: onnxruntime divides by them, or counts with them."
    X = h.make_tensor('w', T.FLOAT, [1, 4, 2, 2], [1.]*16)
    def one(op, x, *inits, **kw): return model([node(op, x, 'y', **kw)], inits)
    def div(op, kind): return one(op, 'a b', *(h.make_tensor(n, kind, [1], [v]) for n, v in (('a', 6), ('b', 0))))
    at, empty = ints('i', 0, 0, dims=[1, 2]), ints('d', dims=[0])
    return {**{f'{op} by zero of type {k}': div(op, k) for op in ('Div', 'Mod') for k in (T.INT64, T.INT32, T.UINT8)},
            **{f'blocksize {n}': one('DepthToSpace', 'w', X, blocksize=n) for n in (0, -1, 2**31, 2**32, 2**63-1)},
            **{f'batch_dims {n}': one('GatherND', 'x i', at, batch_dims=n) for n in (-1, -2**31, -2**63, 2**63-1)},
            'OneHot without a depth': one('OneHot', 'i d v', ints('i', 1), empty, floats('v', 0, 1)),
            'group 0': one('ConvTranspose', 'x k', floats('k', *[1]*3, dims=[3, 1, 1, 1]), group=0),
            'strides 0': one('MaxPool', 'x', kernel_shape=[2, 2], strides=[0, 0]),
            'dilations 0': one('MaxPool', 'x', kernel_shape=[2, 2], dilations=[0, 0]),
            'a Split with more outputs': calling(function('f', node('Split', 'x', 'y z', num_outputs=1, axis=2))),
            'a name given twice': calling(function('f', node('Relu', 'x', 'a'), node('Neg', 'x', 'a'),
                                                   node('Abs', 'a', 'y'))),
            'a parameter given again': calling(function('f', node('Relu', 'x', 'x'), node('Neg', 'x', 'y'))),
            'a name that nothing gives': calling(function('f', node('Add', 'x a', 'y'))),
            'too many arguments': model([call('f', 'x x')], functions=[function('f', node('Relu', 'x', 'y'))],
                                        domain='f'),
            'axis of 64 bits': one('Softmax', 'x', axis=2**32), 'RoiAlign of nothing': one('RoiAlign', 'x r b',
                floats('r', *[0]*4, dims=[1, 4]), ints('b', 7), output_height=0, output_width=2**31-1)}

def files():
    good = net().SerializeToString()
    deep = b'\x00'
    for _ in range(40): deep = b'\x2a' + varint(len(deep) + 3) + b'\x32' + varint(len(deep)) + deep
    return {'nothing': b'', 'ORT format': b'\x18\0\0\0ORTM' + bytes(200), 'text': b'not an ONNX file',
            'zeros': bytes(1000), 'ORT format that is ONNX, too': b'\x12\x06' + b'xxORTM' + good,
            'a number without end': b'\x08' + b'\xff'*200, 'a pickle': b'\x80\x04\x95' + bytes(60),
            'groups': b'\x0b'*1000, 'cut off': good[:-7], 'half': good[:len(good)//2], 'no graph': b'\x08\x08',
            'an empty graph': b'\x08\x08\x3a\0', 'a length past the end': b'\x3a\xff\xff\xff\xff\x0f',
            'a text as a number': b'\x0a\x02\x08\x08', 'a field of tomorrow': good + b'\xf2\x07\x01a',
            'names that are no text': good + b'\x12\x02\xff\xfe',
            'a long name': good + b'\x12' + varint(5000) + b'a'*5000,
            'messages in messages': b'\x3a' + varint(len(deep)) + deep,
            'a million fields': good + b'\x08\x08'*1_000_000}

def varint(n):
    "A number as protobuf writes it."
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

CLASSES = {'control flow': control_flow, 'foreign operators': foreign, 'functions': functions, 'floods': floods,
           'fatal numbers': fatal, 'no ONNX files': files}   # all of them the walk refuses

# --- one operator with arguments that nobody means

F = np.float32
def I(o): return np.array(o, np.int64)  # noqa: E743
X = np.arange(192, dtype=F).reshape(1, 3, 8, 8)/192
ONE = np.ones((2, 3, 3, 3), F)
NODES = dict(
    Conv=([X, ONE], dict(kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], pads=[1]*4, group=1)),
    ConvTranspose=([X, ONE[..., :2, :2].reshape(3, 2, 2, 2)], dict(
        kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1], pads=[0]*4, group=1, output_padding=[0, 0])),
    MaxPool=([X], dict(
        kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1], pads=[0]*4, ceil_mode=0, storage_order=0)),
    AveragePool=([X], dict(kernel_shape=[2, 2], strides=[2, 2], pads=[0]*4, ceil_mode=0, count_include_pad=0)),
    BatchNormalization=([X, *[np.ones(3, F)]*4], dict(epsilon=1e-5, momentum=.9)),
    InstanceNormalization=([X, *[np.ones(3, F)]*2], dict(epsilon=1e-5)),
    LayerNormalization=([X, np.ones(8, F)], dict(axis=-1, epsilon=1e-5)),
    GroupNormalization=([X, *[np.ones(3, F)]*2], dict(num_groups=3, epsilon=1e-5)),
    Concat=([X, X], dict(axis=1)), Split=([X, I([1, 2])], dict(axis=1)), Softmax=([X], dict(axis=1)),
    LogSoftmax=([X], dict(axis=1)), Flatten=([X], dict(axis=1)), Transpose=([X], dict(perm=[0, 2, 3, 1])),
    Gather=([X, I([0, 1])], dict(axis=1)), GatherElements=([X, I(np.zeros((1, 1, 8, 8)))], dict(axis=1)),
    GatherND=([X, I([[0, 0]])], dict(batch_dims=0)), ScatterND=([X, I([[0]]), X], dict(reduction='none')),
    ScatterElements=([X, I(np.zeros((1, 1, 8, 8))), X[:, :1]], dict(axis=1)),
    DepthToSpace=([np.ones((1, 4, 2, 2), F)], dict(blocksize=2)), Unique=([X.ravel()], dict(axis=0, sorted=1)),
    ReduceMean=([X, I([2, 3])], dict(keepdims=1, noop_with_empty_axes=0)), ReduceMax=([X, I([2, 3])], dict(keepdims=1)),
    ReduceProd=([X, I([1])], dict(keepdims=1)), ReduceL2=([X, I([1])], dict(keepdims=1)),
    ReduceLogSumExp=([X, I([1])], dict(keepdims=1)), ReduceSum=([X, I([1])], dict(keepdims=1, noop_with_empty_axes=1)),
    ArgMax=([X], dict(axis=1, keepdims=1, select_last_index=0)), TopK=([X, I([2])], dict(axis=1, largest=1)),
    CumSum=([X, I(1)], dict(exclusive=0, reverse=0)), Squeeze=([X, I([0])], {}), Unsqueeze=([X, I([0])], {}),
    Reshape=([X, I([1, -1])], dict(allowzero=0)), Expand=([X[:, :1], I([1, 3, 8, 8])], {}),
    Tile=([X, I([1, 1, 2, 2])], {}), Slice=([X, I([0]), I([1]), I([1]), I([1])], {}),
    Pad=([X, I([0, 0, 1, 1, 0, 0, 1, 1])], dict(mode='reflect')), Range=([I(0), I(9), I(1)], {}),
    Trilu=([X, I(0)], dict(upper=1)), EyeLike=([X[0, 0]], dict(k=0, dtype=1)), Shape=([X], dict(start=0, end=1)),
    ConstantOfShape=([I([2])], {}), GridSample=([X, np.zeros((1, 2, 2, 2), F)], dict(mode='bicubic', align_corners=0)),
    Resize=([X, None, np.array([1, 1, 2, 2], F)], dict(mode='linear', cubic_coeff_a=-.75)),
    Einsum=([X, X], dict(equation='abcd,abcd->ab')), Where=([X > .5, X, X], {}), MatMul=([X, X], {}),
    Gemm=([X[0, 0], X[0, 0]], dict(transA=0, transB=1, alpha=1., beta=1.)), Cast=([X], dict(to=7)),
    CastLike=([X, I(1)], {}), Clip=([X, np.array(0, F), np.array(1, F)], {}), Div=([I([6, 7]), I([2, 3])], {}),
    Mod=([I([6, 7]), I([2, 3])], dict(fmod=0)), Mul=([I([6, 7]), I([2, 3])], {}), Neg=([I([-2**63])], {}),
    Abs=([I([-2**63])], {}), Pow=([I([2, 3]), I([2, 3])], {}), GlobalMaxPool=([X], {}), GlobalAveragePool=([X], {}),
    BitShift=([np.array([2, 3], np.uint32), np.array([1, 2], np.uint32)], dict(direction='LEFT')),
    LSTM=([X[0], np.ones((1, 8, 8), F), np.ones((1, 8, 2), F)], dict(hidden_size=2, direction='forward')),
    GRU=([X[0], np.ones((1, 6, 8), F), np.ones((1, 6, 2), F)], dict(hidden_size=2)),
    RNN=([X[0], np.ones((1, 2, 8), F), np.ones((1, 2, 2), F)], dict(hidden_size=2)),
    Col2Im=([np.ones((1, 4, 4), F), I([3, 3]), I([2, 2])], dict(dilations=[1, 1], pads=[0]*4, strides=[1, 1])),
    DFT=([X[..., None], I(8)], dict(axis=1, inverse=0, onesided=0)), PRelu=([X, np.ones((3, 1, 1), F)], {}),
    Compress=([X, np.array([1, 0, 1], bool)], dict(axis=1)), Det=([X], {}), NonZero=([X], {}), Mish=([X], {}),
    QuantizeLinear=([X, np.array(1, F), np.array(0, np.uint8)], dict(axis=1)), HardSigmoid=([X], dict(alpha=.2)),
    DequantizeLinear=([np.ones((1, 3), np.uint8), np.array(1, F)], dict(axis=1)), Selu=([X], dict(alpha=1.)),
    MatMulInteger=([np.ones((2, 2), np.uint8)]*2 + [np.array(1, np.uint8)], {}), Elu=([X], dict(alpha=1.)),
    Dropout=([X, np.array(.5, F), np.array(True)], dict(seed=0)), Identity=([X], {}),
)
EXTREMES = 0, -1, 1, 7, -2**63, 2**63-1, 2**31, 2**32, -2**31, 2**16

def changed(v, rng):
    "An argument as nobody means it: an attribute's value or an input's array."
    extreme = rng.choice(EXTREMES)
    if isinstance(v, np.ndarray) and v.dtype == np.int64:
        one = np.where(np.arange(v.size).reshape(v.shape) == rng.randrange(max(v.size, 1)), extreme, v)
        return rng.choice([np.full_like(v, extreme), np.zeros([0]*max(v.ndim, 1), np.int64),
                           np.tile(v, rng.choice((2, 40))), one, one])
    if isinstance(v, np.ndarray):
        kind = rng.choice([np.float64, np.float32, np.int64, np.int32, np.uint8, bool])
        level = rng.choice([0, 1, np.nan, np.inf]) if v.dtype.kind == 'f' else 0
        return rng.choice([np.zeros([0]*v.ndim, v.dtype), v.ravel()[0] if v.size else v, v[None], v.astype(kind),
                           np.full_like(v, level)])
    if isinstance(v, list):
        one = [extreme if i == rng.randrange(len(v)) else o for i, o in enumerate(v)]
        return rng.choice([[extreme]*len(v), v[:1], v*rng.choice((2, 20)), one])
    if isinstance(v, int): return extreme
    if isinstance(v, float): return rng.choice([0., -1., float('nan'), float('inf'), 1e38])
    return rng.choice(['', v.upper(), 'linear', 'wrap', 'a,b->', '...', '...i,...j->...ij', 'aaaa,bbbb->', 'cubic',
                       'x'*500])

def one_node(rng):
    "One operator, some of its arguments changed; half the time its inputs are fed, so that nothing is known at load."
    op = rng.choice(list(NODES))
    arrays, attrs = NODES[op]
    places = [*range(len(arrays)), *attrs]
    for k in rng.sample(places, min(len(places), rng.choice((1, 1, 1, 2, 3)))):
        if isinstance(k, str): attrs = {**attrs, k: changed(attrs[k], rng)}
        elif arrays[k] is not None: arrays = [changed(a, rng) if i == k else a for i, a in enumerate(arrays)]
    names = [f'i{k}' if a is not None else '' for k, a in enumerate(arrays)]
    inits = [onnx.numpy_helper.from_array(np.asarray(a), n) for a, n in zip(arrays, names) if n]
    first = inits[0]
    outs = [f'y{i}' for i in range(2 if op in ('Split', 'TopK') else 1)]
    m = model([h.make_node(op, names, outs, **attrs)], inits, 'y0')
    if rng.random() < .5:
        del m.graph.initializer[0]
        m.graph.input[0].CopyFrom(info(first.name, first.data_type, list(first.dims)))
    return m.SerializeToString()

# --- a whole model, and damaged copies

@cache
def net():
    "A small net as an exporter writes one."
    rng = np.random.default_rng(0)
    def w(name, *dims): return onnx.numpy_helper.from_array(rng.normal(size=dims).astype(F), name)
    inits = [w('mean', 1, 3, 1, 1), w('w1', 8, 3, 3, 3), *(w(o, 8) for o in ('b1', 'g', 'b', 'm')),
             floats('v', *[1.]*8), w('w2', 8, 1, 3, 3), w('w3', 8, 4, 2, 2), w('w4', 5, 8), w('b4', 5),
             ints('shape', 0, -1), ints('s0', 0, 0), ints('s1', 16, 16), ints('ax', 2, 3),
             floats('sc', 1, 1, 2, 2), ints('pads', 0, 0, 1, 1, 0, 0, 1, 1), ints('parts', 4, 4), ints('two', 2),
             ints('rest', 5)]
    pool, one = dict(kernel_shape=[2, 2], strides=[2, 2]), dict(kernel_shape=[3, 3], pads=[1]*4)
    nodes = [node('Cast', 'image', 'c', to=1), node('Sub', 'c mean', 'net_input'),
             node('Conv', 'net_input w1 b1', 'a1', strides=[1, 1], group=1, **one),
             node('BatchNormalization', 'a1 g b m v', 'a2'), node('Relu', 'a2', 'a3'),
             node('MaxPool', 'a3', 'a4', **pool), node('Conv', 'a4 w2', 'a5', dilations=[1, 1], group=8, **one),
             node('Add', 'a4 a5', 'a6'), node('Resize', 'a6 _ sc', 'a7', mode='nearest'),
             node('Pad', 'a7 pads', 'a8', mode='reflect'), node('Slice', 'a8 s0 s1 ax', 'a9'),
             node('Split', 'a9 parts', 'p q', axis=1), node('Sigmoid', 'p', 'p1'), node('Mul', 'p1 q', 'r'),
             node('Concat', 'r q', 'a10', axis=1), node('ConvTranspose', 'a10 w3', 't', strides=[2, 2]),
             node('Concat', 't t', 't1', axis=1), node('AveragePool', 't1', 'a11', **pool),
             node('ReduceMean', 'a11 ax', 'a12', keepdims=1), node('Shape', 'image', 'n', start=0, end=1),
             node('Mul', 'n two', 'n2'), node('Div', 'n2 two', 'n3'), node('Concat', 'n3 rest', 'n4', axis=0),
             node('Reshape', 'a12 shape', 'a13'), node('Gemm', 'a13 w4 b4', 'logits', transB=1),
             node('Softmax', 'logits', 's', axis=1), node('Reshape', 's n4', 'probs')]
    x, y = info('image', T.UINT8, ['batch', 3, 16, 16]), info('probs', T.FLOAT, ['batch', 5])
    g = h.make_graph(nodes, 'main', [x], [y], inits)
    m = h.make_model(g, ir_version=8, opset_imports=[h.make_opsetid('', 18)])
    return onnx.shape_inference.infer_shapes(m, strict_mode=True)

@cache
def pixels(method):
    op = dict(op='resize', size=[16, 16], method=method, pad_mode='reflection', resample='bilinear',
              order='vertical_if_thin')
    spec = Spec(Input([16, 16]), [op], [dict(op='int_to_float', div=255.)], dict(source='opaque', why='a toy'),
                Output([5], 'softmax'))
    return onnx.load_from_string(pixels_model(spec, net().SerializeToString(), list('abcde')))

def damaged_graph(rng, m):
    "A few nodes, names, attributes, weights, types or sizes changed."
    p = onnx.ModelProto()
    p.CopyFrom(m)
    for _ in range(rng.choice((1, 1, 2, 4))): damage(rng, p)
    return p.SerializeToString()

def damage(rng, p):
    bodies = [p.graph, *p.functions]
    g = rng.choice([p.graph]*3 + bodies)
    nodes, how = g.node, rng.randrange(12)
    if not nodes: return
    n, inits = rng.choice(nodes), p.graph.initializer
    names = [o for k in nodes for o in [*k.input, *k.output]]
    if how == 0: nodes.remove(n)
    elif how == 1: nodes.add().CopyFrom(n)
    elif how == 2: nodes[rng.randrange(len(nodes))].CopyFrom(n)
    elif how == 3 and n.input: n.input[rng.randrange(len(n.input))] = rng.choice([*names, ''])
    elif how == 4: n.input[:] = rng.sample([*n.input], len(n.input))
    elif how == 5: n.op_type = rng.choice(sorted(OPERATORS))
    elif how == 6 and n.attribute: damage_attribute(rng, rng.choice(n.attribute))
    elif how == 7 and n.attribute: n.attribute.remove(rng.choice(n.attribute))
    elif how == 8: n.attribute.append(h.make_attribute(*rng.choice(ATTRIBUTES)))
    elif how == 9 and inits:
        t = rng.choice([o for o in inits if o.data_type == T.INT64] + [rng.choice(inits)])
        t.CopyFrom(onnx.numpy_helper.from_array(np.asarray(changed(onnx.numpy_helper.to_array(t), rng)), t.name))
    elif how == 10 and p.graph.value_info:
        t = rng.choice([*p.graph.value_info, *p.graph.input, *p.graph.output]).type.tensor_type
        if rng.random() < .3: t.elem_type = rng.randrange(20)
        elif t.shape.dim: rng.choice(t.shape.dim).dim_value = rng.choice(EXTREMES)
    elif how == 11: n.output[0] = rng.choice(names)

ATTRIBUTES = [(k, v) for _, attrs in NODES.values() for k, v in attrs.items()]

def damage_attribute(rng, a):
    "Another value, or another type."
    v = h.get_attribute_value(a) if not a.ref_attr_name else None
    if isinstance(v, onnx.TensorProto):
        v = onnx.numpy_helper.from_array(np.asarray(changed(onnx.numpy_helper.to_array(v), rng)))
    elif isinstance(v, bytes): v = changed(v.decode(), rng)
    elif isinstance(v, (int, float)) or (isinstance(v, list) and v and isinstance(v[0], int)): v = changed(v, rng)
    else: return
    if v != []: a.CopyFrom(h.make_attribute(a.name, v))

# --- the corpus

def cases(seed=0, n=600):
    "(class, case): all that are built by hand, then `n` drawn; a case is (name, bytes, whether the walk must refuse)."
    for kind, f in CLASSES.items():
        for name, o in f().items(): yield kind, (name, o if isinstance(o, bytes) else o.SerializeToString(), True)
    yield 'sound', ('model.onnx', net().SerializeToString(), False)
    yield from (('sound', (f'pixels.onnx, {o}', pixels(o).SerializeToString(), False)) for o in ('crop', 'squish'))
    yield from (('for the sandbox', (name, data, None)) for name, data in sandbox_models().items())
    rng, whole = random.Random(seed), [net, partial(pixels, 'crop'), partial(pixels, 'squish')]
    drawn = {'absurd arguments': lambda: one_node(rng),
             'damaged bytes': lambda: spoilt(rng, rng.choice(whole)().SerializeToString(), 5),
             'damaged graphs': lambda: damaged_graph(rng, rng.choice(whole)())}
    for i in range(n):
        kind = [*drawn][i % 3]
        yield kind, (f'{kind} {i} of seed {seed}', drawn[kind](), False)

def attack(case, folder):
    "'refused', or 'answered' for a model that runs."
    name, data, must = case
    if must is None: return in_sandbox(name, data, folder)
    try: check_model(data, name)
    except BundleError as e:
        assert '\n' not in str(e) and name in str(e), f'{name}: an error of many lines, or without its name'
        return 'refused'
    assert not must, f'{name}: no exporter of ours writes it, and the walk lets it through'
    try: session = make_session(data)
    except BundleError: return 'refused'
    try: session.run(None, {o.name: zeros(o) for o in session.get_inputs()})
    except Exception: return 'refused'  # of onnxruntime: `Model.warm` makes a BundleError of it
    return 'answered'

def in_sandbox(name, data, folder):
    "The walk lets the model through; the sandbox stops it, and this process lives on."
    m, (spec, files) = onnx.load_from_string(data), toy('regression')
    m.graph.input[0].CopyFrom(info('image', T.UINT8, [1, 3, 16, 12]))
    m.graph.node.insert(0, h.make_node('Cast', ['image'], ['x'], to=T.FLOAT))
    m.graph.output[0].name = m.graph.node[-1].output[0] = spec.output.name
    check_model(m.SerializeToString(), name)
    bundle = write_bundle(folder/'b', spec, {**files, 'model.onnx': m.SerializeToString()})
    try: try_out(bundle, memory=3*2**30, seconds=5)
    except BundleError as e:
        assert 'sandbox' in str(e) or 'allocate' in str(e) or 'memory' in str(e), str(e)
        return 'refused'
    raise AssertionError(f'{name}: it ran')

def zeros(o):
    "What is fed: the first input of a bundle is one image."
    kinds = dict(zip('float uint8 double int64 int32 bool float16'.split(), 'f4 u1 f8 i8 i4 ? f2'.split()))
    shape = [min(d, 64) if isinstance(d, int) and d >= 0 else 1 if len(o.shape) == 4 else 20 for d in o.shape]
    return np.zeros(shape, kinds.get(o.type.removeprefix('tensor(').removesuffix(')'), 'f4'))

def sandbox_models():
    "What a walk cannot tell: name -> bytes of a model from `x` [1, 3, 8, 8] that takes memory or time without end."
    def wide(*nodes, inits=()): return model([*nodes, node('ReduceSum', 'b', 'z'), node('Add', 'x z', 'y')], inits)
    line, grow = np.ones((1, 60000), F), [node('Relu', 'x', 'b0')]
    weights = [onnx.numpy_helper.from_array(o, n) for n, o in (('w', line), ('v', line.T.copy()))]
    grow += [node('Concat', f'b{i} b{i}', f'b{i+1}' if i < 27 else 'b', axis=0) for i in range(28)]
    power = [node('Shape', 'x', 's'), node('Cast', 's', 'f', to=1), node('Pow', 'f six', 'p'),
             node('Cast', 'p', 'i', to=7), node('ConstantOfShape', 'i', 'b')]
    slow = [node('MatMul', 'm m', 'm0')]
    slow += [node('MatMul', f'm{i} m{i}', f'm{i+1}' if i < 20000 else 'b') for i in range(20001)]
    m = onnx.numpy_helper.from_array(np.zeros((1000, 1000), F), 'm')
    return {o: p.SerializeToString() for o, p in {
        'a matrix out of two lines': wide(node('MatMul', 'v w', 'b'), inits=weights), 'doubled 28 times': wide(*grow),
        'a computed size': wide(*power, inits=[floats('six', 6)]), '20,000 products': wide(*slow, inits=[m])}.items()}
