"""A bundle in Triton: the repository that `to_triton` writes, in a real tritonserver, over gRPC and HTTP.

The server is that of the wheel nvidia-pytriton, which has the Python backend alone. In the place of the onnxruntime
backend, which is not run here, are some lines of Python; all else of a repository that is written for it is run."""
import json, re, subprocess, sys, time
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc
import tritonclient.http
from conftest import ROOT, said
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.utils import InferenceServerException

from fastai_deploy.run.bundle import open_bundle
from fastai_deploy.run.loading import load
from fastai_deploy.run.write_bundle import update_bundle, write_bundle
from fastai_deploy.samples.toys import goldens_of, node, toy_bundle, toy_model
from fastai_deploy.serving.triton import local_triton, to_triton

PYTHON = ROOT/'.venv-triton'/'bin'/'python'
DOORS = dict(grpc=tritonclient.grpc, http=tritonclient.http)
noise = np.random.default_rng(0)

def image(h, w):
    "An image of noise."
    return Image.fromarray(noise.integers(0, 256, (h, w, 3), np.uint8))

def png(img, tmp):
    "Its file's bytes."
    img.save(tmp/'it.png')
    return (tmp/'it.png').read_bytes()

def with_goldens(bundle, images):
    "The same bundle, with goldens."
    with open_bundle(bundle) as b: return update_bundle(b, goldens_of(bundle, images))

@pytest.fixture(scope='session')
def bundles(digits_bundle, once):
    "Name → bundle: trained; for masks; for floats of any size; with a golden that was told otherwise."
    def make(d):
        d.mkdir()
        with_goldens(toy_bundle(d/'masks', 'segmentation'), [image(30, 50), image(8, 8)])
        nodes = [node('Identity', 'image', 'net_input'), node('ReduceMean', 'net_input axes', 'logits', keepdims=0),
                 node('Softmax', 'logits', 'probs')]
        free = toy_model(nodes, image=(3, 'h', 'w'), dtype=np.float32, axes=[2, 3])
        b = open_bundle(toy_bundle(d/'toy'))
        spec, names = b.spec, dict(b.spec.files)
        spec.input.size, spec.input.min_size, spec.input.dtype, spec.item = None, [4, 4], 'float32', []
        files = {n: b.read(n) for n in names} | {'model.onnx': free}
        with_goldens(write_bundle(d/'free', spec, files), [image(30, 50)])
        told = goldens_of(d/'toy', [image(30, 50)])
        toy_bundle(d/'broken', method='crop', files=told.items())
    made = once('triton-bundles', make)
    return dict(digits=digits_bundle, **{o: made/o for o in ('masks', 'free', 'broken')})

ORT_BACKEND = """
import json, os
import onnxruntime as ort
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args['model_config'])
        file = os.path.join(args['model_repository'], args['model_version'], config['default_model_filename'])
        self.session = ort.InferenceSession(file)
        self.input, self.output = config['input'][0]['name'], config['output'][0]['name']

    def execute(self, requests):
        images = [pb.get_input_tensor_by_name(r, self.input).as_numpy() for r in requests]
        answers = [self.session.run([self.output], {self.input: o})[0] for o in images]
        return [pb.InferenceResponse([pb.Tensor(self.output, o)]) for o in answers]
"""

@pytest.fixture(scope='session')
def server(bundles, tmp_path_factory):
    "A tritonserver with all of them, and `ort`: a repository for the onnxruntime backend, which has a stand-in."
    if not PYTHON.exists(): pytest.skip('no Triton environment: python tools/env.py triton')
    tmp = tmp_path_factory.mktemp('triton')
    repos = [to_triton(b, tmp/n, n, 'python', max_queue=2 if n == 'masks' else 64, max_wait=.01)
             for n, b in bundles.items()]
    repos.append(to_triton(bundles['digits'], tmp/'ort', 'ort'))
    names = [o + part for o in (*bundles, 'ort') if o != 'broken' for part in ('', '_transforms', '_net')]
    (tmp/'backends'/'onnxruntime').mkdir(parents=True)
    (tmp/'backends'/'onnxruntime'/'model.py').write_text(ORT_BACKEND, encoding='utf-8')
    flags = [f'--model-repository={o}' for o in repos[1:]] + [f'--load-model={o}' for o in names]
    flags.append('--model-control-mode=explicit')
    with local_triton(repos[0], PYTHON, *flags, timeout=200, backends=tmp/'backends') as s: yield s

@pytest.fixture(params=DOORS)
def door(request, server):
    "gRPC or HTTP: the module, a client, and `ask(model, files, output)`."
    triton = DOORS[request.param]
    client = triton.InferenceServerClient(getattr(server, request.param))
    def tensor(files):
        data = np.array(files, object)[:, None]
        x = triton.InferInput('file', data.shape, 'BYTES')
        x.set_data_from_numpy(data)
        return x
    def ask(model, files, output='probs', top=0):
        wanted = triton.InferRequestedOutput(output, class_count=top)
        return client.infer(model, [tensor(files)], outputs=[wanted]).as_numpy(output)
    yield SimpleNamespace(name=request.param, client=client, ask=ask, tensor=tensor)
    client.close()

@pytest.fixture(scope='session')
def photos():
    "Files of many sizes."
    from fastai_deploy.samples.digits import digits
    return [o.read_bytes() for o in sorted(digits().rglob('*.jpg'))[::61]]

@pytest.mark.parametrize('name', ['digits', 'ort'])
def test_goldens(door, bundles, name):
    "What fastai answered, through the ensemble."
    b = open_bundle(bundles['digits'])
    for i, g in enumerate(load(bundles['digits']).goldens()):
        file = [b.read(f'golden/{i}.png')]
        np.testing.assert_allclose(door.ask(name, file)[0], g.probs, atol=1e-5)
        [best] = door.ask(name, file, top=1)[0]
        assert best.decode().split(':', 2)[2] == g.label

def test_transforms_are_exact(door, bundles, photos, tmp_path):
    "No byte of what the net gets differs, also in the repository for the onnxruntime backend."
    model = load(bundles['digits'])
    files = [*photos[:5], *(png(image(*o), tmp_path) for o in [(1, 1), (7, 300), (301, 8)])]
    want = np.stack([model.prepare(o) for o in files])
    for name in 'digits_transforms', 'ort_transforms':
        got = door.ask(name, files, 'image')
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)

def test_batch(door, bundles, photos, tmp_path):
    "Images of mixed sizes in one request answer as alone; more than a batch is refused."
    model = load(bundles['digits'])
    files = [*photos[:6], *(png(image(*o), tmp_path) for o in [(20, 400), (333, 31)])]
    np.testing.assert_allclose(door.ask('digits', files), [model.predict(o).probs for o in files], atol=1e-5)
    with pytest.raises(InferenceServerException, match='must be <= 8'): door.ask('digits', files*2)

def test_no_image(door, photos):
    "A clear error that says which; the next request is answered."
    with pytest.raises(InferenceServerException, match='not an image') as e: door.ask('digits', [b'hello'])
    assert 'Traceback' not in str(e.value) and str(ROOT) not in str(e.value)
    with pytest.raises(InferenceServerException, match='image 1: .*not an image'):
        door.ask('digits', [photos[0], b'hello', photos[1]])
    with pytest.raises(InferenceServerException, match='cut off|truncated|cannot|broken|damaged'):
        door.ask('digits', [photos[0][:200]])
    assert door.ask('digits', photos[:1]).shape == (1, 10)

def test_any_size(door, bundles, tmp_path):
    "Each image at its own size; one request takes one size; too small is refused."
    model = load(bundles['free'])
    for size in (5, 9), (40, 30):
        img = image(*size)
        np.testing.assert_allclose(door.ask('free', [png(img, tmp_path)])[0], model.predict(img).probs, atol=1e-6)
    two = [png(image(*o), tmp_path) for o in [(5, 9), (40, 30)]]
    with pytest.raises(InferenceServerException, match='differ in size'): door.ask('free', two)
    small = png(image(3, 9), tmp_path)
    with pytest.raises(InferenceServerException, match='takes 4x4 at least'): door.ask('free', [small])

def test_masks(door, bundles, tmp_path):
    img = image(20, 30)
    np.testing.assert_allclose(door.ask('masks', [png(img, tmp_path)])[0], load(bundles['masks']).predict(img).probs,
                               atol=1e-5)

def grpc_many(server, model, files):
    "Answers and errors of many requests that are sent at once, in order."
    client, res = tritonclient.grpc.InferenceServerClient(server.grpc), [None]*len(files)
    def done(i): return lambda result, error: res.__setitem__(i, error or result.as_numpy('probs')[0])
    for i, o in enumerate(files):
        x = tritonclient.grpc.InferInput('file', [1, 1], 'BYTES')
        x.set_data_from_numpy(np.array([[o]], object))
        client.async_infer(model, [x], done(i))
    end = time.monotonic() + 60
    while any(o is None for o in res) and time.monotonic() < end: time.sleep(.01)
    client.close()
    return res

def test_many_at_once(server, bundles, photos):
    "Each answer belongs to its request, a bad file harms nobody, and the server puts several into one batch."
    client, model = tritonclient.grpc.InferenceServerClient(server.grpc), load(bundles['digits'])
    files = [b'no image' if i % 10 == 3 else photos[i % len(photos)] for i in range(60)]
    def counts():
        s = client.get_inference_statistics('digits_net', as_json=True)['model_stats'][0]
        return np.array([int(s['inference_count']), int(s['execution_count'])])
    before = counts()
    for file, answer in zip(files, grpc_many(server, 'digits', files)):
        if file == b'no image': assert 'not an image' in answer.message()
        else: np.testing.assert_allclose(answer, model.predict(file).probs, atol=1e-5)
    images, calls = counts() - before
    assert images == 54 and calls < images

def test_full_queue(server, photos):
    "What does not fit into the queue is refused; the rest is answered."
    answers = grpc_many(server, 'masks', [photos[0]]*60)
    errors = [o.message() for o in answers if isinstance(o, InferenceServerException)]
    assert 0 < len(errors) < 60 and all('maximum queue size' in o for o in errors), errors[:1]

def test_config(door, bundles):
    "What a client may ask the server about a model."
    config = door.client.get_model_config('digits', **(dict(as_json=True) if door.name == 'grpc' else {}))
    said, sha = config.get('config', config)['parameters'], open_bundle(bundles['digits']).sha256
    assert said['task']['string_value'] == 'classification' and said['bundle_sha256']['string_value'] == sha

def test_a_wrong_golden_is_not_served(server):
    "Item transforms that give other bytes than fastai: the model does not load, and the server says why."
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    with pytest.raises(InferenceServerException, match='other bytes here than in fastai'):
        client.load_model('broken_transforms')
    assert client.is_server_live() and client.is_model_ready('digits')

@pytest.mark.parametrize('http', [False, True])
def test_client_program(server, bundles, tmp_path, photos, http):
    (tmp_path/'Zürich.jpg').write_bytes(photos[0])
    (tmp_path/'notes.txt').write_text('no image', encoding='utf-8')
    repo, model = to_triton(bundles['digits'], tmp_path/'repo'), load(bundles['digits'])
    place = ['--url', server.http, '--http'] if http else ['--url', server.grpc]
    def run(*args):
        r = subprocess.run([sys.executable, repo/'client.py', 'digits', *args, *place], cwd=tmp_path, text=True,
                           capture_output=True, encoding='utf-8')
        return r.returncode, [json.loads(o) for o in r.stdout.splitlines()], r.stderr
    code, [row], _ = run('Zürich.jpg', '--top', '2')
    want = model.predict(photos[0]).topk(2)
    assert code == 0 and row['path'] == 'Zürich.jpg' and [o['label'] for o in row['top']] == [o for o, _ in want]
    np.testing.assert_allclose([o['prob'] for o in row['top']], [p for _, p in want], atol=1e-5)
    code, [bad, good], err = run('notes.txt', 'Zürich.jpg')
    assert code == 1 and 'not an image' in bad['error'] and len(good['probs']) == 10 and err == ''

# --- without a server

KINDS = {'tensor(uint8)': 'TYPE_UINT8', 'tensor(float)': 'TYPE_FP32'}

def read_config(repo, name):
    return text_format.Parse((repo/name/'config.pbtxt').read_text(encoding='utf-8'), ModelConfig())

@pytest.mark.parametrize('task', ['classification', 'multilabel', 'regression', 'points', 'segmentation',
                                  'image_to_image'])
def test_config_is_that_of_the_graph(task, tmp_path):
    "Names, types and shapes of config.pbtxt are those of model.onnx, and the steps of the ensemble fit together."
    toy = toy_bundle(tmp_path/'toy', task, threshold=.5 if task == 'multilabel' else None)
    repo = to_triton(toy, tmp_path/'repo', max_batch=4)
    net, transforms, both = (read_config(repo, o) for o in ('toy_net', 'toy_transforms', 'toy'))
    session = ort.InferenceSession((repo/'toy_net'/'1'/'model.onnx').read_bytes())
    about = lambda o: (o.name, KINDS[o.type], [d if isinstance(d, int) else -1 for d in o.shape[1:]])
    told = lambda o: (o.name, DataType.Name(o.data_type), list(o.dims))
    assert [*map(told, net.input)] == [*map(about, session.get_inputs())]
    assert [*map(told, net.output)] == [*map(about, session.get_outputs())][:1]
    assert [*map(told, transforms.output)] == [*map(told, net.input)] and [*transforms.input] == [*both.input]
    assert [*map(told, both.output)] == [*map(told, net.output)]
    assert (net.backend, transforms.backend, both.platform) == ('onnxruntime', 'python', 'ensemble')
    assert {o.max_batch_size for o in (net, transforms, both)} == {4}
    first, second = both.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == ('toy_transforms', 'toy_net')
    assert first.output_map['image'] == second.input_map['image'] == 'image'
    labels = [o.label_filename for o in net.output]
    assert labels == (['labels.txt'] if task in ('classification', 'multilabel') else [''])
    if labels[0]: assert (repo/'toy_net'/'labels.txt').read_bytes() == (toy/'vocab.txt').read_bytes()

def test_warmup_files(bundles, tmp_path):
    "As many bytes as the configuration says; each golden alone and as a full batch."
    repo, model = to_triton(bundles['digits'], tmp_path/'repo', 'it'), load(bundles['digits'])
    net, transforms = (read_config(repo, f'it_{o}') for o in ('net', 'transforms'))
    assert len(net.model_warmup) == len(transforms.model_warmup) == 2*len(model.goldens())
    for i, g in enumerate(model.goldens()):
        one, many = net.model_warmup[2*i:2*i+2]
        assert (one.batch_size, many.batch_size) == (1, 8)
        x = one.inputs['image']
        a = np.frombuffer((repo/'it_net'/'warmup'/x.input_data_file).read_bytes(), np.uint8).reshape(x.dims)
        np.testing.assert_array_equal(a, model.prepare(g.image))

def test_transforms_need_numpy_and_pillow_alone(bundles, tmp_path):
    "The model in the repository, in a Python that gets nothing else of ours."
    repo = to_triton(bundles['digits'], tmp_path/'repo', 'it')
    code = f'''if True:
        import sys, types, runpy, numpy as np
        class Blocked:
            def find_spec(self, name, *_):
                if name.split('.')[0] in ('onnxruntime', 'onnx', 'torch', 'fastai', 'tritonclient', 'google'):
                    raise ImportError(name)
        sys.meta_path.insert(0, Blocked())
        pb = types.ModuleType('triton_python_backend_utils')
        pb.get_input_tensor_by_name = lambda r, name: types.SimpleNamespace(as_numpy=lambda: r[name])
        pb.Tensor, pb.InferenceResponse = lambda name, a: (name, a), lambda o: o[0]
        sys.modules[pb.__name__] = pb
        it = runpy.run_path(r'{repo}/it_transforms/1/model.py')['TritonPythonModel']()
        it.initialize(dict(model_repository=r'{repo}/it_transforms', model_version='1'))
        png = open(r'{repo}/it_transforms/1/bundle/golden/0.png', 'rb').read()
        [(name, a)] = it.execute([dict(file=np.array([[png]], object))])
        it.finalize()
        import fastai_deploy
        print(name, a.shape[:2], fastai_deploy.__file__)'''
    out = said(sys.executable, '-I', '-c', code, cwd=tmp_path)
    assert out.startswith('image (1, 3)') and re.search(r'it_transforms.1.fastai_deploy', out)
