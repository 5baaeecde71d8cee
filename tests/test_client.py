"The client against servers that behave, and against some that do not."
import asyncio, json, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

for tool in ('starlette', 'uvicorn', 'python_multipart', 'prometheus_client', 'httpx'):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install 'fastai_deploy[serve]'")

from fastai_deploy.run.basics import FastaiDeployError, ImageError, UnsupportedError
from fastai_deploy.run.loading import load
from fastai_deploy.serving.batching import Busy, Late
from fastai_deploy.serving.client import Answer, AsyncClient, Client, ServerError
from test_server import Running, png

class Scripted(BaseHTTPRequestHandler):
    "Answers each request with the next of `script`: (status, body, headers), or None: it hangs up."
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.server.asked.append({**self.headers})
        said = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        if said is None: self.close_connection = True; return
        status, body, headers = said
        if status == 'slow': time.sleep(1); status = 200
        body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {**headers, 'Content-Length': str(len(body))}.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

@pytest.fixture
def scripted():
    s = ThreadingHTTPServer(('127.0.0.1', 0), Scripted)
    s.asked, s.url = [], f'http://127.0.0.1:{s.server_port}'
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()

GOOD = 200, dict(label='red', index=0, prob=.5), {}
def refused(status, text='no', **headers):
    return status, dict(error=text), {k.replace('_', '-'): v for k, v in headers.items()}

def ask(kind, s, **kw):
    "What a client of either kind gives."
    if kind is Client:
        with Client(s.url, **kw) as c: return c.predict(png())
    async def go():
        async with AsyncClient(s.url, **kw) as c: return await c.predict(png())
    return asyncio.run(go())

both = pytest.mark.parametrize('kind', [Client, AsyncClient])

@both
def test_it_asks_again(kind, scripted):
    scripted.script = [refused(503, Retry_After='0.3'), None, refused(503), GOOD]
    begun = time.monotonic()
    assert ask(kind, scripted) == ('red', 0, .5)
    assert time.monotonic() - begun > .3 and len(scripted.asked) == 4
    left = [float(o['X-Request-Timeout']) for o in scripted.asked]
    assert 30 >= left[0] > left[1] > left[2] > left[3] > 20

@both
@pytest.mark.parametrize('status, error', [
    (400, ImageError), (401, ServerError), (404, ServerError), (413, ServerError), (422, UnsupportedError),
    (429, ServerError), (500, ServerError), (504, Late)])
def test_it_does_not_ask_again(kind, scripted, status, error):
    scripted.script = [refused(status, 'so it is')]
    with pytest.raises(error, match='so it is') as e: ask(kind, scripted)
    assert len(scripted.asked) == 1 and getattr(e.value, 'status', status) == status
    assert isinstance(e.value, FastaiDeployError)

@both
def test_there_is_an_end(kind, scripted):
    scripted.script = [refused(503, 'full')]
    with pytest.raises(Busy, match='full'): ask(kind, scripted, retries=2)
    assert len(scripted.asked) == 3
    scripted.script, begun = [refused(503, 'full', Retry_After='3600')], time.monotonic()
    with pytest.raises(Busy, match='full'): ask(kind, scripted)
    assert time.monotonic() - begun < 5
    scripted.script = [('slow', *GOOD[1:])]
    with pytest.raises(Late, match='within 0.3 seconds'): ask(kind, scripted, timeout=.3)
    scripted.script = [None]
    with pytest.raises(ServerError, match='dropped the connection'): ask(kind, scripted, retries=1)

@both
def test_another_server(kind, scripted):
    for said in ('<html>', '[1]', '7'):
        scripted.script = [(200, said, {})]
        with pytest.raises(ServerError, match='does not answer as a server of bundles'): ask(kind, scripted)
        scripted.script = [(502, said, {})]
        with pytest.raises(ServerError, match='answers with status 502'): ask(kind, scripted)

def test_key(scripted):
    scripted.script = [GOOD]
    assert ask(Client, scripted, key='k', headers={'X-More': 'm'}).label == 'red'
    assert scripted.asked[0]['X-API-Key'] == 'k' and scripted.asked[0]['X-More'] == 'm'

def test_the_answers_of_the_model(digits_bundle):
    model = load(digits_bundle)
    goldens = [g.image for g in model.goldens()]
    with Running(f'digits={digits_bundle}', keys=['k']) as r, Client(r.url, 'digits', key='k') as c:
        assert c.ready(10) and c.models() == {'digits': ['1']}
        items = [*goldens, b'no image', 'nowhere.jpg', Image.new('RGB', (3, 5), 'blue')]*3
        res = c.predict_batch(items, at_once=5)
        want = model.predict_batch(items)
        for here, there in zip(want, res):
            if isinstance(here, ImageError):
                assert isinstance(there, ImageError) and str(there) == str(here)
            else:
                assert isinstance(there, Answer) and there.index == here.index and there.label == here.label
                assert abs(there.prob - here.prob) < 1e-5
        async def many():
            async with AsyncClient(r.url, 'digits', key='k') as a: return await a.predict_batch(items, at_once=3)
        assert [str(o) if isinstance(o, Exception) else o.label for o in asyncio.run(many())] == [
            str(o) if isinstance(o, Exception) else o.label for o in want]
        with pytest.raises(ServerError, match='key is needed') as e: Client(r.url).predict(png())
        assert e.value.status == 401
        for wrong in ('abc', b'abc'):
            with pytest.raises(FastaiDeployError, match='a list of images'): c.predict_batch(wrong)
