"""Many requests of all kinds against a server: is each answered, and by its own answer.

    make soak        (or python tools/soak.py --requests 2000 --idle 500)

An image is of one colour, which is its number; a net answers the colour, each of the three bundles in another order."""
import argparse, io, json, os, random, re, resource, signal, socket, statistics
import subprocess, sys, tempfile, threading, time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {'small': (8, 8), 'wide': (8, 24), 'large': (32, 32)}  # bundle → what its net sees
LATE = '0.004'  # seconds that some requests give the server
BURST = 150     # requests at the same moment

def make_bundles(folder) -> list: # 'name=path'
    "Three bundles that answer the mean of each colour: the second starts with green, the third with blue."
    from fastai_deploy.samples.toys import goldens_of, toy_bundle
    res = []
    for i, (name, size) in enumerate(SIZES.items()):
        make = lambda to, **kw: toy_bundle(folder/to, 'regression', size=size, weights=np.roll(np.eye(3), i, 1), **kw)
        make(name, files=goldens_of(make(f'{name}-bare'), [image(n) for n in (1, 70_000, 9_000_000)]))
        res.append(f'{name}={folder/name}')
    return res

def image(n: int, size=(9, 7)):
    "An image that carries number `n`."
    return Image.new('RGB', size, (n & 255, n>>8 & 255, n>>16 & 255))

def file(n: int, size=(9, 7)) -> bytes:
    "The same as a file."
    out = io.BytesIO()
    image(n, size).save(out, 'png', compress_level=1)
    return out.getvalue()

def number(name: str, answer: dict) -> int:
    "The number that an answer of bundle `name` is about."
    rgb = np.roll([round((v+.5)*255) for v in answer['values']], -[*SIZES].index(name))
    return int(rgb @ [1, 256, 65_536])

# --- the client's side

class Asking:
    "One client with a connection of its own."
    def __init__(self, port, seed):
        self.port, self.rng, self.seen, self.wrong, self.c = port, random.Random(seed), Counter(), [], None

    def send(self, path, body, method='POST', **headers):
        "(status, JSON, headers) of a request."
        for _ in range(2):  # the server may have closed a connection that was idle
            self.c = self.c or HTTPConnection('127.0.0.1', self.port, timeout=60)
            try:
                self.c.request(method, path, body, headers)
                r = self.c.getresponse()
                return r.status, json.loads(r.read()), r.headers
            except (ConnectionError, HTTPException) as e:
                self.c.close()
                self.c, error = None, e
        raise error

    def note(self, what, status, good, said=''):
        "Count an answer; keep the wrong ones."
        self.seen[f'{what} {status}'] += 1
        if not good: self.wrong.append(f'{what}: {status} {said}'[:300])

    def draw(self):
        "(bundle, number, file) of the next image."
        n, side = self.rng.randrange(1<<24), lambda: int(2**self.rng.uniform(0, 9))
        return self.rng.choice([*SIZES]), n, file(n, (side(), side()))

    def one(self):
        "An image, in one of the ways to send it."
        name, n, body = self.draw()
        status, d, h = self.send(f'/predict/{name}', body, self.rng.choice(['POST', 'PUT']))
        full = status == 503 and h.get('retry-after')
        self.note('image', status, full or status == 200 and number(name, d) == n, d)

    def several(self):
        "Several images in a form, one of them bad."
        name, items = self.rng.choice([*SIZES]), [self.draw()[1:] for _ in range(self.rng.randrange(1, 6))]
        parts = [*(b for _, b in items), b'no image']
        body = b''.join(b'--soak\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n%s\r\n' % o
                        for o in enumerate(parts)) + b'--soak--\r\n'
        kind = {'Content-Type': 'multipart/form-data; boundary=soak'}
        status, d, _ = self.send(f'/predict/{name}', body, **kind)
        good = status == 503 or status == 200 and 'not an image' in d[-1]['error'] and (
            [number(name, o) for o in d[:-1]] == [n for n, _ in items])
        self.note('form', status, good, d)

    def bad(self):
        "No image, or half of one."
        name, _, body = self.draw()
        body = self.rng.choice([b'', self.rng.randbytes(100), body[:len(body)//2], body[:30] + b'\0'*len(body)])
        status, d, _ = self.send(f'/predict/{name}', body)
        self.note('bad image', status, status in (400, 503) and d['error'], d)

    def lost(self):
        "A model that is not there."
        status, d, _ = self.send('/predict/cats', b'')
        self.note('no such model', status, status == 404, d)

    def hurried(self):
        "Somebody who hardly waits."
        name, n, body = self.draw()
        status, d, _ = self.send(f'/predict/{name}', body, **{'X-Request-Timeout': LATE})
        self.note('hurried', status, status in (503, 504) or status == 200 and number(name, d) == n, d)

    def raw(self, name, body, part=1.):
        "A connection on which that part of a request was sent."
        head = f'POST /predict/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n'
        s = socket.create_connection(('127.0.0.1', self.port), timeout=60)
        data = head.encode() + body
        s.sendall(data[:int(len(data)*part)])
        return s

    def hang_up(self):
        "Somebody who does not wait at all, and may not even finish."
        name, _, body = self.draw()
        self.raw(name, body, self.rng.choice([.5, .9, 1])).close()
        self.note('hung up', '', True)

    def burst(self):
        "Many at the same moment."
        drawn = [self.draw() for _ in range(BURST)]
        sent = [(name, n, self.raw(name, body)) for name, n, body in drawn]
        for name, n, s in sent:
            said = b''
            with s:
                while more := s.recv(65536): said += more
            status, d = int(said[9:12]), json.loads(said.partition(b'\r\n\r\n')[2])
            full = status == 503 and b'retry-after' in said
            self.note('burst', status, full or status == 200 and number(name, d) == n, d)

    def work(self, n):
        "Send `n` requests of all kinds."
        kinds = dict(one=75, several=8, bad=7, hurried=5, hang_up=4, lost=1)
        while self.seen.total() < n:
            kind = 'burst' if self.rng.random() < 1/1500 else self.rng.choices([*kinds], kinds.values())[0]
            try: getattr(self, kind)()
            except Exception as e: self.note(kind, type(e).__name__, False, e)
        if self.c: self.c.close()

def client(port, n, seed, threads=4):
    "What runs in a client's process: prints what it saw."
    crew = [Asking(port, f'{seed} {i}') for i in range(threads)]
    workers = [threading.Thread(target=o.work, args=[n//threads]) for o in crew]
    for o in workers: o.start()
    for o in workers: o.join()
    print(json.dumps(dict(seen=sum((o.seen for o in crew), Counter()), wrong=sum((o.wrong for o in crew), []))))

# --- the server's side

class Server:
    "A server in a process of its own."
    def __init__(self, bundles, log, **options):
        options = dict(port=0, page=False, head=5, max_queue=8) | options
        code = f'from fastai_deploy.serving.server import serve; serve({bundles!r}, **{options!r})'
        self.p, self.log = subprocess.Popen([sys.executable, '-c', code], stderr=open(log, 'wb')), Path(log)
        end = time.monotonic() + 120
        while not (found := re.search(r'running on http://[^:]+:(\d+)', self.log.read_text())):
            assert self.p.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(.1)
        self.port = int(found[1])

    def rss(self) -> float:
        "Memory that it holds, in MB."
        return int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{self.p.pid}/status').read_text())[1])/1024

    def sockets(self) -> int:
        "How many are open."
        links = [o for o in Path(f'/proc/{self.p.pid}/fd').iterdir() if o.is_symlink()]
        return sum(os.readlink(o).startswith('socket') for o in links)

    def stop(self) -> int:
        "SIGTERM; gives the exit code."
        self.p.send_signal(signal.SIGTERM)
        return self.p.wait(40)

def load(port, requests, processes, sample) -> tuple: # (Counter, what was wrong)
    "Send requests from several processes; `sample` is called meanwhile."
    crew = [subprocess.Popen([sys.executable, __file__, '--client', f'{port}', f'{requests//processes}', f'{i}'],
                             stdout=subprocess.PIPE, text=True) for i in range(processes)]
    while any(p.poll() is None for p in crew):
        sample()
        time.sleep(.25)
    said = [json.loads(p.stdout.read()) for p in crew]
    return sum((Counter(o['seen']) for o in said), Counter()), sum((o['wrong'] for o in said), [])

def idle(port, n) -> tuple: # (how many were open, seconds of a request meanwhile, how many the server closed)
    "Open connections that say nothing."
    open_ones = [socket.create_connection(('127.0.0.1', port), timeout=30) for _ in range(n)]
    begun, a = time.monotonic(), Asking(port, 0)
    a.one()
    seconds, closed = time.monotonic() - begun, 0
    assert not a.wrong, a.wrong
    a.c.close()
    for s in open_ones:
        with s:
            try: closed += s.recv(1) == b''
            except ConnectionError: closed += 1
    return n, seconds, closed

def growth(rss: list) -> float: # MB
    "By how much the last quarter's median is above the second's: the first one is for warming up."
    q = max(1, len(rss)//4)
    return statistics.median(rss[-q:]) - statistics.median(rss[q:2*q] or rss)

def main(requests, processes, n_idle, most) -> int:
    "Run it all, and print a table; 0 if all is well."
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as tmp:
        tmp, rss = Path(tmp), []
        s = Server(make_bundles(tmp), tmp/'log')
        try:
            before = s.sockets()
            load(s.port, min(1000, requests//4), processes, lambda: None)
            begun = time.monotonic()
            seen, wrong = load(s.port, requests, processes, lambda: rss.append(s.rss()))
            seconds, more = time.monotonic() - begun, growth(rss)
            n, wait, closed = idle(s.port, min(n_idle, hard-200))
            end = time.monotonic() + 15
            while (left := s.sockets() - before) > 0 and time.monotonic() < end: time.sleep(.2)
            code = s.stop()
        finally:
            if s.p.poll() is None: s.p.kill()
        unforeseen = len(re.findall('"not foreseen"|Traceback', s.log.read_text(errors='replace')))
    total = seen.total()
    failed = sum(v for k, v in seen.items() if re.search(' 5[0-9][0-9]$', k) and k[-3:] not in ('503', '504'))
    rows = [('requests', f'{total:,} in {seconds:.0f} s, {total/seconds:.0f} a second', total >= requests*.99),
            *((k, f'{v:,}', True) for k, v in sorted(seen.items())),
            ('wrong answers', f'{len(wrong)}', not wrong),
            ('5xx but 503 and 504', f'{failed}', not failed),
            ('errors in the log that nobody foresaw', f'{unforeseen}', not unforeseen),
            ('memory', f'{rss[0]:.0f} → {rss[-1]:.0f} MB; from the 2nd to the last quarter {more:+.1f} MB',
             more <= most),
            ('idle connections', f'{n:,} open, a request meanwhile {wait:.2f} s, {closed:,} closed by the server',
             closed == n and wait < 5),
            ('sockets left open', f'{left}', left <= 0), ('exit code after SIGTERM', f'{code}', code == 0)]
    width = max(len(o[0]) for o in rows)
    for what, said, good in rows: print(f"{what:{width}}  {said}{'' if good else '  ← wrong'}")
    for o in wrong[:20]: print(o)
    return not all(good for *_, good in rows)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--requests', type=int, default=100_000)
    p.add_argument('--processes', type=int, default=2, help='of clients')
    p.add_argument('--idle', type=int, default=10_000, help='connections that say nothing')
    p.add_argument('--growth', type=float, default=8, help='MB by which the server may grow')
    p.add_argument('--client', nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.client: client(int(args.client[0]), int(args.client[1]), args.client[2])
    else: sys.exit(main(args.requests, args.processes, args.idle, args.growth))
