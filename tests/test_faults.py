"What may happen to a server: each fault gets a clear answer, and those who ask meanwhile notice nothing."
import json, os, random, shutil, signal, socket, sys, threading, time
from contextlib import contextmanager
from pathlib import Path

import pytest

for tool in ('starlette', 'uvicorn', 'python_multipart', 'prometheus_client', 'httpx'):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install 'fastai_deploy[serve]'")

from fastai_deploy.serving.client import Client
from test_server import CLIENT, COLOURS, Running, make_bundle, png, talk

@pytest.fixture(scope='module')
def bundle(tmp_path_factory): return make_bundle(tmp_path_factory.mktemp('faults')/'colours')

@contextmanager
def asked_meanwhile(r, n=3):
    "While this lasts, clients ask; each answer must be right, and come soon."
    stop, wrong, slowest, done = threading.Event(), [], [0], [0]
    def ask(i):
        with Client(r.url) as c:
            while not stop.is_set():
                colour, begun = [*COLOURS][i % 3], time.monotonic()
                try:
                    if c.predict(png(colour)).label != colour: wrong.append(colour)
                except Exception as e: wrong.append(repr(e))
                slowest[0], done[0] = max(slowest[0], time.monotonic()-begun), done[0] + 1
                i += 1
    crew = [threading.Thread(target=ask, args=[i]) for i in range(n)]
    for o in crew: o.start()
    try: yield done
    finally:
        time.sleep(.5)
        stop.set()
        for o in crew: o.join()
    assert not wrong, wrong[:5]
    assert done[0] > n and slowest[0] < 10, (done, slowest)

@pytest.mark.skipif(sys.platform != 'linux', reason='looks for the workers in /proc')
def test_workers_are_killed_under_load(bundle):
    with Running(str(bundle), workers=2) as r:
        workers = lambda: [int(o) for o in Path(f'/proc/{r.p.pid}/task/{r.p.pid}/children').read_text().split()
                           if b'spawn_main' in Path(f'/proc/{o}/cmdline').read_bytes()]
        r.wait_for('"in service"', 2)
        with asked_meanwhile(r):
            for n in (3, 4):
                os.kill(workers()[0], signal.SIGKILL)
                r.wait_for('"in service"', n)
        assert len(workers()) == 2 and r.stop() == 0

def test_nowhere_to_write(bundle, monkeypatch, tmp_path):
    for name in ('TMPDIR', 'TEMP', 'TMP'): monkeypatch.setenv(name, str(tmp_path/'nowhere'))
    monkeypatch.setattr('test_server.SLOW', 'import tempfile; tempfile.tempdir = "/nowhere/at/all" #{seconds}')
    with Running(str(bundle), seconds=1) as r, asked_meanwhile(r):
        files = [('file', png('blue')), ('file', png('red') + b'\0'*2**21)]
        assert [o['label'] for o in CLIENT.post(r.url+'/predict', files=files).json()] == ['blue', 'red']

def test_a_bundle_is_spoilt_and_mended_under_load(tmp_path):
    b = make_bundle(tmp_path/'a')
    with Running(str(b), watch=.1) as r, asked_meanwhile(r):
        good = (b/'model.onnx').read_bytes()
        spoilt = [good[:-1] + bytes([good[-1]^1]), good[:len(good)//2], b'']
        for n, data in enumerate(spoilt, 1):
            (b/'model.onnx').write_bytes(data)
            r.wait_for('refused: the old bundle stays', n)
            said = CLIENT.get(r.url+'/v2/health/ready').json()
            assert said['ready'] and 'model.onnx' in json.dumps(said) and str(tmp_path) not in json.dumps(said)
        (b/'model.onnx').write_bytes(good)
        end = time.monotonic() + 20
        while 'refused' in CLIENT.get(r.url+'/v2/health/ready').text and time.monotonic() < end: time.sleep(.1)
        assert 'refused' not in CLIENT.get(r.url+'/v2/health/ready').text
        shutil.rmtree(b)
        time.sleep(.5)

def test_slow_senders(bundle):
    with Running(str(bundle), head=2, receive=2) as r, asked_meanwhile(r):
        body = png('green')
        head = f'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n'.encode()
        slow = [socket.create_connection(('127.0.0.1', r.port)) for _ in range(60)]
        for i in range(4):  # a few bytes a second: of the head, or of the body
            for j, s in enumerate(slow):
                try: s.sendall((head if j % 2 else head+body)[i*9:i*9+9] if j % 3 else (head if not i else body[i:i+1]))
                except ConnectionError: pass
            time.sleep(1)
        for s in slow:
            s.settimeout(10)
            try: assert s.recv(100)[:12] in (b'', b'HTTP/1.1 408')
            except ConnectionError: pass
            s.close()

def test_many_idle_connections(bundle):
    resource = pytest.importorskip('resource', reason='Windows has no limit of open files')
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Running(str(bundle), head=3) as r, asked_meanwhile(r):
        idle = [socket.create_connection(('127.0.0.1', r.port)) for _ in range(500)]
        for s in idle:
            s.settimeout(20)
            assert s.recv(1) == b''  # closed by the server
            s.close()

def test_garbage_under_load(bundle):
    rng = random.Random(0)
    good = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Request-Timeout: 1\r\n\r\nhello'
    with Running(str(bundle), head=1, receive=1) as r:
        with asked_meanwhile(r, 2):
            for _ in range(150):
                data = bytearray(good)
                for _ in range(rng.randrange(1, 6)): data[rng.randrange(len(data))] = rng.randrange(256)
                said = talk(r.port, bytes(data[:rng.randrange(1, len(data)+1)]), .1)
                assert said[:12] in (b'', b'HTTP/1.1 200', b'HTTP/1.1 504') or said[:10] == b'HTTP/1.1 4', (data, said)
                assert b'Traceback' not in said
        assert not r.count('not foreseen')
