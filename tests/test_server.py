"The server from outside: a process of its own, asked and treated as the world does."
import base64, io, json, os, re, shutil, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for tool in ('starlette', 'uvicorn', 'python_multipart', 'prometheus_client', 'httpx'):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install 'fastai_deploy[serve]'")
import httpx

from fastai_deploy.run.basics import FastaiDeployError, ParityError
from fastai_deploy.run.loading import load
from fastai_deploy.samples.toys import goldens_of, toy_bundle
from fastai_deploy.serving import server
from fastai_deploy.serving.protocol import pack, unpack

ROOT = Path(__file__).resolve().parent.parent
COLOURS = dict(red=(250, 0, 0), green=(0, 250, 0), blue=(0, 0, 250))

def png(colour='red', size=(20, 10)):
    "An image file of one colour."
    out = io.BytesIO()
    Image.new('RGB', size, COLOURS[colour]).save(out, 'png')
    return out.getvalue()

def make_bundle(path, **kw):
    "A toy that names the strongest colour, with a golden for each."
    bare = toy_bundle(path.with_name(f'{path.name}-bare'), **kw)
    files = goldens_of(bare, [Image.new('RGB', (9, 9), c) for c in COLOURS.values()])
    shutil.rmtree(bare)
    return toy_bundle(path, files=files, **kw)

@pytest.fixture(scope='module')
def bundle(tmp_path_factory): return make_bundle(tmp_path_factory.mktemp('bundles')/'colours')

SLOW = '''
import sys, threading, time
from fastai_deploy.run.model import Model
quick = Model.run
def run(self, batch, *args, **kw):
    if threading.current_thread().name.startswith('ThreadPoolExecutor'):  # a batcher's, not who proves the goldens
        print('net', len(batch), file=sys.stderr, flush=True)
        time.sleep({seconds})
    return quick(self, batch, *args, **kw)
Model.run = run
'''

CLIENT = httpx.Client(timeout=20, verify=False, limits=httpx.Limits(max_keepalive_connections=0))

class Running:
    "A server in a process of its own."
    def __init__(self, bundles, seconds=0, stderr=None, **options):
        options = dict(port=0, page=False) | options
        slow = SLOW.format(seconds=seconds) if seconds else ''
        code = f'{slow}\nfrom fastai_deploy.serving.server import serve\nserve({bundles!r}, **{options!r})'
        env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUTF8='1')
        self.p = subprocess.Popen([sys.executable, '-c', code], stderr=stderr or subprocess.PIPE, env=env, text=True,
                                  encoding='utf-8')
        self.lines, self.scheme = [], 'http'
        if stderr: return
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.p.stderr.readline, '')), daemon=True)
        self.reader.start()
        self.wait_for(r'running on (https?)://[^:]+:(\d+)')

    def wait_for(self, pattern, n=1, seconds=60):
        "Wait until the log has `n` such lines."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [m for line in [*self.lines] if (m := re.search(pattern, line))]
            if len(found) >= n: break
            assert self.p.poll() is None, ''.join(self.lines)
            time.sleep(.02)
        assert len(found) >= n, ''.join(self.lines)
        if 'running' in pattern: self.scheme, self.port = found[0][1], int(found[0][2])

    def count(self, pattern): return sum(bool(re.search(pattern, o)) for o in [*self.lines])
    url = property(lambda self: f'{self.scheme}://127.0.0.1:{self.port}')
    def predict(self, colour='red', at='/predict', **kw):
        return CLIENT.post(self.url+at, content=png(colour), **kw)

    def stop(self):
        "SIGTERM; gives the exit code."
        if self.p.poll() is None: self.p.terminate()
        try: return self.p.wait(20)
        except subprocess.TimeoutExpired: self.p.kill(); raise

    def __enter__(self): return self
    def __exit__(self, *_):
        if self.p.poll() is None: self.p.kill()
        self.p.wait()

@pytest.fixture(scope='module')
def running(bundle):
    with Running(str(bundle), head=1, receive=1, max_body=2**20) as r: yield r

@contextmanager
def inside(*args, **kw):
    "The application in this process, and a function to ask it."
    from starlette.testclient import TestClient
    with TestClient(server.make_app(*args, **dict(watch=0) | kw), raise_server_exceptions=False) as c: yield c

# --- the same answers through every door

def doors(c, base):
    "name → function from the bytes of an image to (label, probabilities or None)."
    def infer(tensors, raw):
        body, n = pack(dict(parameters=dict(binary_data_output=raw)), tensors, [*tensors] if raw else [], 'inputs')
        headers = {'Inference-Header-Content-Length': str(n)} if raw else {}
        r = c.post(f'{base}/v2/models/digits/infer', content=body, headers=headers)
        head, got = unpack(r.content, r.headers.get('inference-header-content-length'), 'outputs')
        return json.loads(got['answer'][0])['label'], got['probs'][0]
    def predict(**kw):
        d = c.request(**dict(method='POST', url=f'{base}/predict/digits?topk=all') | kw).json()
        return d['label'], [*d['probs'].values()]
    files = lambda *o: np.array(o, object)
    pixels = lambda b: np.asarray(Image.open(io.BytesIO(b)).convert('RGB'))
    meta = lambda b: json.dumps(dict(shape=pixels(b).shape, dtype='uint8'))
    return dict(
        raw=lambda b: predict(content=b), put=lambda b: predict(content=b, method='PUT'),
        form=lambda b: predict(files=dict(file=b)),
        json=lambda b: predict(json=dict(image=base64.b64encode(b).decode())),
        pixels=lambda b: predict(files=dict(meta=meta(b), blob=pixels(b).tobytes())),
        infer_json=lambda b: infer(dict(file=files(base64.b64encode(b))), False),
        infer_raw=lambda b: infer(dict(file=files(b)), True))

def test_goldens_through_every_door(digits_bundle):
    model = load(digits_bundle)
    with Running(f'digits={digits_bundle}') as r, httpx.Client(timeout=20) as c:
        for g in model.goldens():
            out = io.BytesIO()
            g.image.save(out, 'png')
            for name, ask in doors(c, r.url).items():
                label, probs = ask(out.getvalue())
                assert label == g.label, (name, g.name)
                np.testing.assert_allclose(probs, g.probs, atol=1e-5, err_msg=name)
        triton(r, model)

def triton(r, model):
    "The same with Triton's client, as pixels after the item transforms and as a file."
    http = pytest.importorskip('tritonclient.http', reason='tritonclient[http] is not installed')
    c = http.InferenceServerClient(f'127.0.0.1:{r.port}')
    assert c.is_server_live() and c.is_server_ready() and c.is_model_ready('digits')
    assert c.get_server_metadata()['name'] == 'fastai_deploy'
    assert c.get_model_repository_index()[0]['name'] == 'digits'
    meta = c.get_model_metadata('digits')
    assert [o['name'] for o in meta['inputs']] == ['image', 'file'] and meta['outputs'][0]['name'] == 'probs'
    goldens = model.goldens()
    for binary in (True, False):
        x = np.stack([model.prepare(g.image, exif=False) for g in goldens])
        inp = http.InferInput('image', x.shape, 'UINT8').set_data_from_numpy(x, binary_data=binary)
        out = http.InferRequestedOutput('probs', binary_data=binary)
        res = c.infer('digits', [inp], outputs=[out], request_id='7')
        assert res.get_response()['id'] == '7'
        np.testing.assert_allclose(res.as_numpy('probs'), [g.probs for g in goldens], atol=1e-5)
    best = c.infer('digits', [inp], outputs=[http.InferRequestedOutput('probs', class_count=1)]).as_numpy('probs')
    assert [o.decode().split(':')[2] for o in best[:, 0]] == [g.label for g in goldens]
    with pytest.raises(http.InferenceServerException, match="no model 'cats'"): c.infer('cats', [inp])
    c.close()

# --- order at the door

def test_keys(bundle, tmp_path, monkeypatch):
    keys = tmp_path/'keys'
    keys.write_text('one\n\n# old\ntwo\n')
    with inside(bundle, keys=str(keys)) as c:
        for path in ('/predict', '/v2', '/metrics', '/docs', '/openapi.json', '/', '/nowhere', '/v2/health/live/x'):
            assert c.get(path).status_code == 401, path
        for given in ({'X-API-Key': 'three'}, {'Authorization': 'Basic one'}, {'X-API-Key': '# old'}, {}):
            assert c.post('/predict', content=png(), headers=given).status_code == 401, given
        for given in ({'X-API-Key': 'one'}, {'Authorization': 'Bearer two'}):
            assert c.post('/predict', content=png(), headers=given).json()['label'] == 'red'
        assert c.get('/v2/health/live').status_code == c.get('/v2/health/ready').status_code == 200
    monkeypatch.setenv('FASTAI_DEPLOY_KEYS', 'three four')
    with inside(bundle) as c:
        assert c.post('/predict', content=png()).headers['www-authenticate'] == 'Bearer'
        assert c.post('/predict', content=png(), headers={'X-API-Key': 'four'}).status_code == 200

def test_cors_is_off_unless_asked_for(bundle):
    origin = {'Origin': 'https://example.org'}
    allowed = lambda c: c.post('/predict', content=png(), headers=origin).headers.get('access-control-allow-origin')
    with inside(bundle) as c: assert allowed(c) is None
    with inside(bundle, cors=['https://example.org'], keys=['k']) as c:
        r = c.options('/predict', headers={**origin, 'Access-Control-Request-Method': 'POST'})
        assert r.status_code == 200 and r.headers['access-control-allow-origin'] == 'https://example.org'
        assert allowed(c) == 'https://example.org'

def test_the_unforeseen_is_for_the_log_alone(bundle, caplog, monkeypatch):
    with inside(bundle) as c:
        def broken(*args): raise RuntimeError(f'{bundle}/secret')
        monkeypatch.setattr(c.app.state.service.find().batcher, 'predict', broken)
        with caplog.at_level('INFO', 'fastai_deploy.serving'): r = c.post('/predict', content=png())
        assert r.status_code == 500 and str(bundle) not in r.text and r.headers['x-request-id'] in r.text
        lines = [json.loads(server.JsonLines().format(o)) for o in caplog.records if o.name == 'fastai_deploy.serving']
        assert any('secret' in o.get('trace', '') and o['id'] == r.headers['x-request-id'] for o in lines)
        monkeypatch.undo()
        assert c.post('/predict', content=png()).json()['label'] == 'red'

def test_models_and_versions(bundle, tmp_path):
    other = make_bundle(tmp_path/'other', vocab='rouge vert bleu')
    with inside([str(bundle), f'colours={other}', f'noms={other}']) as c:
        label = lambda at: c.post(at, content=png('blue')).json()['label']
        assert [label(f'/predict/{o}') for o in ('colours', 'colours?version=1', 'noms')] == ['bleu', 'blue', 'bleu']
        assert c.post('/predict', content=png()).status_code == 404
        assert c.get('/v2/models/colours').json()['versions'] == ['1', '2']
        assert c.get('/v2/models/colours/versions/3/ready').status_code == 404

def test_every_answer_belongs_to_its_request(running):
    names = [*COLOURS]*30
    with httpx.Client(timeout=20) as c, ThreadPoolExecutor(12) as pool:
        sizes = [(8+i, 9+i*7%40) for i in range(len(names))]
        ask = lambda o: c.post(running.url+'/predict', content=png(*o)).json()['label']
        assert [*pool.map(ask, zip(names, sizes))] == names

# --- too much, too late, gone

def test_full_says_so_at_once(bundle):
    with Running(str(bundle), seconds=1, max_queue=2, max_batch=1) as r, ThreadPoolExecutor(6) as pool:
        def ask(i):
            begun = time.monotonic()
            a = r.predict()
            return a.status_code, a.headers.get('retry-after'), time.monotonic()-begun
        res = [*pool.map(ask, range(6))]
        refused = [o for o in res if o[0] == 503]
        assert sorted(o[0] for o in res) == [200]*2 + [503]*4
        assert all(after == '1' and seconds < .8 for _, after, seconds in refused), refused
        assert r.predict().status_code == 200

def test_nobody_waits_any_more(bundle):
    with Running(str(bundle), seconds=1, max_batch=1, threads=None) as r, ThreadPoolExecutor(8) as pool:
        first = pool.submit(r.predict)
        r.wait_for('^net')
        late = [pool.submit(r.predict, headers={'X-Request-Timeout': '.3'}) for _ in range(3)]
        def hang_up():
            with pytest.raises(httpx.ReadTimeout): r.predict(timeout=.3)
        gone = [pool.submit(hang_up) for _ in range(3)]
        assert [o.result().status_code for o in late] == [504]*3
        for o in gone: o.result()
        assert first.result().status_code == 200
        assert r.predict().status_code == 200
        assert r.count('^net') == 2  # those that somebody waited for
        r.wait_for('"status": 499', 3)

def test_sigterm_answers_what_is_in_hand(bundle):
    with Running(str(bundle), seconds=1.5) as r, ThreadPoolExecutor(2) as pool:
        asked = pool.submit(r.predict)
        r.wait_for('^net')
        code = pool.submit(r.stop)
        time.sleep(.5)
        with pytest.raises(httpx.ConnectError): r.predict()
        assert asked.result().json()['label'] == 'red' and code.result() == 0

def counted(r, n, seconds=10):
    "Wait until the metrics have `n` answers: a request is counted after it was answered."
    end, total = time.monotonic() + seconds, 0
    while total != n:
        assert time.monotonic() < end, f'{total} of {n} are counted'
        found = re.search(r'requests_total\{.*status="200"\} (\d+)', CLIENT.get(r.url+'/metrics').text)
        total = int(found[1]) if found else 0
        time.sleep(.05)

@pytest.mark.skipif(sys.platform != 'linux', reason='looks for the workers in /proc')
def test_a_killed_worker_is_replaced(bundle):
    with Running(str(bundle), workers=2, stderr=None) as r:
        workers = lambda: [int(o) for o in Path(f'/proc/{r.p.pid}/task/{r.p.pid}/children').read_text().split()
                           if b'spawn_main' in Path(f'/proc/{o}/cmdline').read_bytes()]
        r.wait_for('"in service"', 2)
        old = workers()
        assert len(old) == 2
        for _ in range(20): assert r.predict().status_code == 200
        counted(r, 20)
        os.kill(old[0], signal.SIGKILL)
        r.wait_for('"in service"', 3)
        assert old[0] not in workers() and old[1] in workers()
        for _ in range(20): assert r.predict().status_code == 200
        counted(r, 40)  # those of the killed one, too
        assert r.stop() == 0

# --- strange clients

def talk(port, data, seconds=5):
    "What the server says to these bytes until it closes, or the time is over."
    with socket.create_connection(('127.0.0.1', port), timeout=seconds) as s:
        s.sendall(data)
        said = b''
        try:
            while more := s.recv(65536): said += more
        except (TimeoutError, ConnectionResetError): pass
    return said

BAD = [b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', b'GARBAGE\r\n\r\n', b'GET\r\n\r\n', b'GET / HTTP/9.9\r\n\r\n',
       b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n', b'\0'*100, b'\r\n'*1000,
       b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
       b'POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n',
       b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999999\r\n\r\n',
       b'GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n', b'GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n',
       b'GET / HTTP/1.1\r\nHost: x\r\nX: \xff\xfe\r\n\r\n',
       b'GET /v2/health/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n']

@pytest.mark.parametrize('data', BAD, ids=range(len(BAD)))
def test_malformed_http(running, data):
    said = talk(running.port, data, 1.5)
    assert re.match(rb'HTTP/1.1 [24]\d\d |$', said), said
    assert b'Traceback' not in said
    assert running.predict().json()['label'] == 'red'

def test_slow_heads_and_long_heads_are_cut_off(running):
    for data in (b'', b'POST /predict HTTP/1.1\r\nHost: x\r\nX-Slow: '):
        begun = time.monotonic()
        assert talk(running.port, data, 10) == b''
        assert .8 < time.monotonic()-begun < 4
    s = socket.create_connection(('127.0.0.1', running.port), timeout=10)
    with s, pytest.raises((ConnectionError, TimeoutError)):
        s.sendall(b'GET / HTTP/1.1\r\nHost: x\r\nX: ')
        for _ in range(1000): s.sendall(b'a'*4096)

def test_a_slow_body_is_a_408(running):
    head = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n'
    said = talk(running.port, head + b'abc')
    assert said.startswith(b'HTTP/1.1 408') and b'connection: close' in said.lower(), said
    assert running.predict().status_code == 200

def test_large_bodies(running):
    for kw in (dict(content=b'x'*(2**20+1)), dict(content=iter([b'x'*2**16]*17))):
        try: assert CLIENT.post(running.url+'/predict', **kw).status_code == 413
        except (httpx.WriteError, httpx.ReadError): pass  # closed while it was still sending
    said = talk(running.port, b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n')
    assert said.startswith(b'HTTP/1.1 413')
    assert running.predict().status_code == 200

def test_idle_connections(running):
    idle = [socket.create_connection(('127.0.0.1', running.port)) for _ in range(300)]
    assert running.predict().status_code == 200
    for s in idle:
        s.settimeout(5)
        assert s.recv(1) == b''  # closed by the server
        s.close()

@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
def test_a_full_disk_stops_the_log_alone(bundle):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with open('/dev/full', 'w') as full, Running(str(bundle), stderr=full, port=port) as r:
        r.port = port
        for _ in range(300):
            try: assert CLIENT.get(r.url+'/v2/health/ready').status_code == 200; break
            except httpx.ConnectError: time.sleep(.1)
        big = [('file', png('blue')), ('file', b'x'*2**21)]  # Starlette would spool that to the disk
        res = CLIENT.post(r.url+'/predict', files=big)
        assert res.json()[0]['label'] == 'blue' and 'error' in res.json()[1]

# --- a bundle that changes

def test_reload_loses_no_request(tmp_path):
    make_bundle(tmp_path/'a')
    make_bundle(tmp_path/'b', vocab='rouge vert bleu')
    with Running(str(tmp_path/'a'), watch=.1) as r, ThreadPoolExecutor(4) as pool:
        stop, seen = threading.Event(), []
        def ask():
            with httpx.Client(timeout=20) as c:
                while not stop.is_set(): seen.append(c.post(r.url+'/predict', content=png()).json().get('label'))
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for n in range(3):
                for old, new in (('a', 'x'), ('b', 'a'), ('x', 'b')): os.rename(tmp_path/old, tmp_path/new)
                r.wait_for('"reloaded"', n+1)
                time.sleep(.3)
        finally: stop.set()
        for o in asking: o.result()
        assert {*seen} == {'red', 'rouge'}, {*seen}

def test_a_broken_bundle_is_not_taken(tmp_path, caplog):
    b = make_bundle(tmp_path/'a')
    with inside(b) as c:
        service = c.app.state.service
        good, text = (b/'bundle.json').read_bytes(), lambda: json.dumps(c.get('/v2/health/ready').json())
        for spoil in (lambda: (b/'bundle.json').write_bytes(b'{}'), lambda: (b/'model.onnx').unlink(),
                      lambda: shutil.rmtree(b)):
            spoil()
            c.portal.call(service.find().refresh)
            assert c.post('/predict', content=png()).json()['label'] == 'red'
            assert '"ready": true' in text() and 'refused' in text() and str(tmp_path) not in text()
        make_bundle(b)
        c.portal.call(service.find().refresh)
        assert 'refused' not in text() and (b/'bundle.json').read_bytes() == good

def test_only_proven_bundles_start(tmp_path):
    bare = toy_bundle(tmp_path/'bare')
    lies = toy_bundle(tmp_path/'lies', weights=[[0, 1, 0], [1, 0, 0], [0, 0, 1]],
                      files=goldens_of(bare, [Image.new('RGB', (9, 9), 'red')]))
    with pytest.raises(ParityError):
        with inside(lies): pass
    with pytest.raises(AssertionError, match='answers otherwise here'): Running(str(lies))
    with inside(lies, check=False) as c: assert c.post('/predict', content=png()).json()['label'] == 'green'
    with pytest.raises(FastaiDeployError, match='nowhere'): server.serve(tmp_path/'nowhere')

# --- by their own tools

def test_schemathesis(running):
    schemathesis = pytest.importorskip('schemathesis', reason='schemathesis is not installed')
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks
    def foreseen(ctx, response, case): assert response.status_code != 500, response.text  # a 504 may be asked for
    held = [foreseen, *(getattr(checks, n, None) or checks.CHECKS.get_one(n) for n in
            ('status_code_conformance', 'content_type_conformance', 'response_schema_conformance'))]
    how, asked = settings(max_examples=12, deadline=None, database=None, phases=[Phase.generate],
                          suppress_health_check=[*HealthCheck]), []
    for op in schemathesis.openapi.from_url(running.url+'/openapi.json').get_all_operations():
        def holds(case): asked.append(case.call_and_validate(checks=held))
        given(case=op.ok().as_strategy())(how(holds))()
    assert len(asked) > 100
    assert running.predict().json()['label'] == 'red'

def test_tls(bundle, tmp_path):
    if not shutil.which('openssl'): pytest.skip('openssl is not installed')
    make = 'openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout key.pem -out cert.pem'
    subprocess.run(make.split(), check=True, capture_output=True, cwd=tmp_path)
    with Running(str(bundle), certfile=str(tmp_path/'cert.pem'), keyfile=str(tmp_path/'key.pem')) as r:
        assert r.url.startswith('https') and r.predict().json()['label'] == 'red'

def test_page(bundle, tmp_path):
    pytest.importorskip('gradio', reason='gradio is not installed')
    with Running([str(bundle), f'other={bundle}'], page=True) as r:
        assert 'gradio' in CLIENT.get(r.url+'/').text.lower()
        assert 'curl' in CLIENT.get(r.url+'/docs').text
        assert r.predict(at='/predict/other').json()['label'] == 'red'
        from gradio_client import Client, handle_file
        (tmp_path/'red.png').write_bytes(png())
        c = Client(r.url, verbose=False)
        assert 'red' in json.dumps(c.predict(handle_file(str(tmp_path/'red.png')), api_name='/predict'))
        assert r.stop() == 0

def test_spans(bundle):
    pytest.importorskip('opentelemetry.sdk', reason='opentelemetry-sdk is not installed')
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider, export
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    with inside(bundle) as c:
        parent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
        c.post('/predict', content=png(), headers=dict(traceparent=parent))
    span = spans.get_finished_spans()[-1]
    assert span.name == 'POST /predict' and f'{span.context.trace_id:032x}' in parent
    assert span.attributes['fastai_deploy.model'] == 'colours' and span.attributes['fastai_deploy.net'] > 0
