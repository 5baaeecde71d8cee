"""How many requests a second, how late, and what under too many: our server and three others, in one interleaved run.

    make load        (or python tools/load.py --secs 10 --rounds 3)

The load comes from oha (`cargo install oha`), a process of its own. At a fixed rate it measures from when a request
was due, not from when a connection was free to send it, as wrk, hey and ab do, which wait for answers. Every server has
the machine for itself while it is measured: the others are stopped by a signal. Look at the ratios."""
import argparse, json, os, platform, shutil, signal, socket, sqlite3, statistics, subprocess, sys, tempfile, time
import warnings
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from bench import a_photo
from env import ROOT

PETS = ROOT.parent/'shared'/'pets'/'images'
OUT = ROOT/'nbs'/'reference'/'load.json'
ENVS = Path.home()/'.cache'/'fastai_deploy'   # where the environment of LitServe is made
MAIN = 'ours', 'fastai', 'fastapi', 'litserve'
AIMS = dict(fastai=6, fastapi=1.3, litserve=1.2)
TIMEOUT = 5     # seconds after which nobody waits for an answer

def photos(folder):
    "JPEG files: of pets where they are there, else a drawn one."
    return [*PETS.glob('*.jpg')] or [a_photo(folder/'photo.jpg')]

def prepare(folder):
    "A resnet18 with random weights as a pickle and as a bundle, and the body that is sent: the photo of median size."
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(photos(folder), key=lambda p: p.stat().st_size)
    body = files[len(files)//2]
    if (folder/'learn.pkl').exists(): return body
    warnings.filterwarnings('ignore', category=FutureWarning)   # torch's, about itself
    import fastai.vision.all as fv
    import fastai_deploy as fd
    from fastai_deploy.samples.toys import randomise
    dls = fv.ImageDataLoaders.from_lists(
        folder, [body]*74, [f'class{i:02}' for i in range(37)]*2, valid_pct=.5, seed=0, bs=8, num_workers=0,
        item_tfms=fv.Resize(224), batch_tfms=fv.Normalize.from_stats(*fv.imagenet_stats))
    learn = fv.vision_learner(dls, fv.resnet18, pretrained=False)
    randomise(learn.model)
    fd.export(learn, folder/'bundle', goldens=2, progress=False, overwrite=True)
    learn.export((folder/'learn.pkl').resolve())
    return body

def oha_tool():
    "Where oha is."
    found = shutil.which('oha') or shutil.which('oha', path=str(Path.home()/'.cargo'/'bin'))
    return found or sys.exit('oha is not installed: cargo install oha')

def litserve_python():
    "The Python of an environment that has LitServe, made if there is none."
    d = ENVS/'litserve'
    python = d/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', d], check=True)
        subprocess.run([python, '-m', 'pip', 'install', '-q', 'litserve', 'python-multipart', 'onnxruntime', 'pillow',
                        'numpy'], check=True)
    return python

def free_port():
    "A port that nobody listens on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Server:
    "A process that answers at `url`, stopped while it is not measured."
    def __init__(self, name, folder, body):
        self.name, self.form, port = name, name.startswith('litserve'), free_port()
        self.url, self.body, self.log = f'http://127.0.0.1:{port}/predict', body, open(folder/'server.log', 'ab')
        python = litserve_python() if self.form else sys.executable
        env = {k: v for k, v in os.environ.items() if not k.startswith('OMP_')} | dict(PYTHONPATH=str(ROOT))
        self.process = subprocess.Popen(
            [python, '-W', 'ignore', ROOT/'tools'/'load_servers.py', name, folder, str(port)], env=env, stdout=self.log,
            stderr=self.log, start_new_session=True)
        self.answer = self.wait(until=time.monotonic() + 120)
        self.signal(signal.SIGSTOP)

    def ask(self):
        "The answer to one request."
        data, head = self.body.read_bytes(), {'Content-Type': 'image/jpeg'}
        if self.form:
            about = b'Content-Disposition: form-data; name="file"; filename="a.jpg"'
            data = b'--x\r\n' + about + b'\r\n\r\n' + data + b'\r\n--x--\r\n'
            head = {'Content-Type': 'multipart/form-data; boundary=x'}
        with urlopen(Request(self.url, data, head), timeout=20) as r: return json.load(r)

    def wait(self, until):
        "The first answer."
        while True:
            try: return self.ask()
            except HTTPError as e:
                if e.code != 503 or time.monotonic() > until: sys.exit(f'{self.name}: {e} {e.read(300)}')
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    sys.exit(f'{self.name} did not start:\n' + Path(self.log.name).read_text(errors='replace')[-2000:])
            time.sleep(.2)

    def signal(self, number):
        "To the process and its children."
        if self.process.poll() is None: os.killpg(self.process.pid, number)

    @contextmanager
    def alone(self):
        "While it runs."
        self.signal(signal.SIGCONT)
        try: yield self
        finally: self.signal(signal.SIGSTOP)

    def close(self):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.signal(signal.SIGKILL)
        self.log.close()

def oha(server, secs, connections, rate=None):
    "One run: (status, due, done) of each answered request, in seconds from the start, and how many had no answer."
    with tempfile.TemporaryDirectory() as tmp:
        cmd = [oha_tool(), '--no-tui', '--output-format', 'json', '-m', 'POST', '-z', f'{secs}s', '-c', connections,
               '-t', f'{TIMEOUT}s', '-w', '--db-url', f'{tmp}/db', '--worker-threads', '1']
        cmd += ['-F', f'file=@{server.body}'] if server.form else ['-D', server.body, '-T', 'image/jpeg']
        if rate: cmd += ['-q', f'{rate:.2f}', '--latency-correction']
        with server.alone():
            r = subprocess.run([*map(str, cmd), server.url], capture_output=True, text=True,
                               timeout=secs + 20*TIMEOUT)
        if r.returncode: sys.exit(f'oha: {r.stderr}')
        with sqlite3.connect(f'{tmp}/db') as db:
            rows = db.execute('select status, coalesce(start_latency_correction, start), end from oha').fetchall()
    return np.array(rows, float).reshape(-1, 3).T, sum(json.loads(r.stdout)['errorDistribution'].values())

def peak(server, secs):
    "Answers a second to callers who wait for theirs."
    (status, _, done), _ = oha(server, secs, 32)
    return float(((status == 200) & (done <= secs)).sum()/secs)

def steady(server, secs, rate):
    "Milliseconds to the answer at a fixed rate: the median, and what 99 of 100 keep."
    (status, due, done), failed = oha(server, secs, 256, rate)
    took = (done - due)[status == 200]*1e3
    p50, p99 = np.quantile(took, [.5, .99]) if len(took) else (None, None)
    return dict(p50=p50, p99=p99, failed=int((status != 200).sum()) + failed)

def overload(server, secs, rate):
    "At a rate that is too high: good answers a second, within the time that callers wait; how many had another answer."
    (status, due, done), failed = oha(server, secs, 512, rate)
    good = (status == 200) & (done - due <= TIMEOUT)
    refused = int((status == 503).sum())
    return dict(rate=float(good.sum()/max(secs, done[good].max(initial=0))), refused=refused,
                other=int((~good).sum()) - refused + failed)

def measure(servers, secs, rounds):
    "All figures of all servers; each round takes them in another order."
    res, names = {n: dict(peaks=[], overloads=[]) for n in servers}, [*servers]
    for i in range(rounds):
        for n in names[i%len(names):] + names[:i%len(names)]:
            res[n]['peaks'].append(peak(servers[n], secs))
            print(f'round {i+1}: {n}: {res[n]["peaks"][-1]:.1f}/s', flush=True)
            if n != 'ours': continue
            o = overload(servers[n], secs, 3*res[n]['peaks'][-1])   # next to its peak, for machines have moods
            res[n]['overloads'].append(o | dict(peak=res[n]['peaks'][-1]))
    for n in MAIN:
        if n not in servers: continue
        rate = statistics.median(res[n]['peaks'])
        res[n]['half'] = steady(servers[n], 2*secs, rate/2)
        if n != 'ours': res[n]['overloads'].append(overload(servers[n], secs, 3*rate) | dict(peak=rate))
    return res

def summary(res):
    "A row for each server."
    rows = []
    for n, o in res.items():
        over = [v['rate']/v['peak'] for v in o['overloads']]
        ratio = statistics.median(a/b for a, b in zip(res['ours']['peaks'], o['peaks']))
        rows.append(dict(server=n, peak=statistics.median(o['peaks']), ratio=ratio, aim=AIMS.get(n),
                         p50=o.get('half', {}).get('p50'), p99=o.get('half', {}).get('p99'),
                         goodput=statistics.median(over) if over else None))
    return rows

def table(rows):
    "The rows as text."
    f = lambda v, form: '' if v is None else format(v, form)
    lines = [f'{"":28}{"answers/s":>10}{"ours / it":>11}{"aim":>6}{"p50, ms":>9}{"p99, ms":>9}{"at 3x":>7}']
    for r in rows:
        lines.append(f'{r["server"]:28}{r["peak"]:10.1f}{r["ratio"]:11.2f}{f(r["aim"], "g"):>6}{f(r["p50"], ".0f"):>9}'
                     f'{f(r["p99"], ".0f"):>9}{f(r["goodput"], ".2f"):>7}')
    return '\n'.join(lines)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--secs', type=float, default=10, help='of one measurement')
    p.add_argument('--rounds', type=int, default=3, help='measurements of each peak')
    p.add_argument('--only', nargs='+', default=None, help='servers, by their names in load_servers.py')
    p.add_argument('--folder', type=Path, default=ENVS/'load', help='where the model is kept')
    p.add_argument('--out', type=Path, default=OUT, help='where the figures go')
    a = p.parse_args()
    from load_servers import SERVERS
    body = prepare(a.folder.resolve())
    servers = {}
    try:
        for n in a.only or SERVERS: servers[n] = Server(n, a.folder.resolve(), body)
        labels = {n: s.answer.get('label') for n, s in servers.items()}
        if len(set(labels.values())) > 1: sys.exit(f'they do not answer alike: {labels}')
        res = measure(servers, a.secs, a.rounds)
    finally:
        for s in servers.values(): s.close()
    rows = summary(res)
    print(table(rows))
    about = dict(cores=os.cpu_count(), python=platform.python_version(), body=body.stat().st_size, secs=a.secs,
                 rounds=a.rounds, timeout=TIMEOUT)
    text = json.dumps(dict(about=about, rows=rows, raw=res), indent=1, default=float)
    a.out.write_text(text + '\n', encoding='utf-8')

if __name__ == '__main__': main()
