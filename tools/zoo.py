"""`make zoo`: which nets? One of every family that fastai can train, into nbs/reference/zoo.json.

    make zoo                                      what the table does not have yet
    make zoo ARGS="--again timm/beit vgg11_bn"    these families or nets, again
    make zoo ARGS="--fresh"                       everything, again

Families and nets are asked of timm, torchvision and fastai; none is typed here. Each net runs in a worker process that
is killed when it takes too long, and begun anew when it dies: then this net is a row with its cause. The table is
written after every net, so the run may be stopped at any time and goes on where it was."""
import argparse, gc, importlib.metadata, json, math, os, subprocess, sys, tempfile, time, warnings
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

from env import ROOT

TABLE, CACHE = ROOT/'nbs'/'reference'/'zoo.json', ROOT/'_proc'/'zoo_nets.json'
COLUMNS = 'family net weights size result exporter parity seconds cause'.split()
RESULTS = 'rebuilt', 'opaque', 'failed', 'fastai'    # `fastai`: fastai itself cannot build or run it
TOLERANCE = 1e-4    # of the largest raw output

# --- which nets there are

def n_weights(make):
    "How many weights the net has that `make` makes; none is allocated."
    import torch
    with torch.device('meta'), torch.no_grad(): return sum(p.numel() for p in make().parameters())

def timm_families():
    "family -> its smallest net, [weights, net], as this timm has them."
    import timm
    return {f'timm/{m}': min([n_weights(lambda n=n: timm.create_model(n, num_classes=0)), n]
                             for n in timm.list_models(module=m)) for m in timm.list_modules()}

def functions():
    "name -> function, of all nets that `fastai.vision.models` offers, torchvision's and its own."
    from fastai.vision.all import models
    found = {**vars(models), **vars(models.xresnet)}
    return {k: f for k, f in found.items() if callable(f) and not k.startswith('_')
            and getattr(f, '__module__', '').startswith(('torchvision.models.', 'fastai.vision.models.'))
            and getattr(f, '__name__', '') == k and k.islower() and not k.startswith('init_')}

def function_families():
    "The same for the functions: those that fastai has settings for, one by one; of the others the smallest."
    from fastai.vision.learner import model_meta
    from torchvision.models import get_model_weights
    res = {}
    for k, f in functions().items():
        lib, *_, module = f.__module__.split('.')
        try: n = get_model_weights(k).DEFAULT.meta['num_params'] if lib == 'torchvision' else n_weights(f)
        except TypeError: n = 10**12    # fastai cannot make it: it will be a row, with the cause
        own = f in model_meta or lib == 'fastai'
        res.setdefault(f'{lib}/{module}', []).append([n, k, own])
    return {k: sorted(v) for k, v in res.items()}

def families():
    "[family, net] of all that is to be run, smallest first. To ask timm takes minutes: the answer is kept."
    have = json.loads(CACHE.read_text(encoding='utf-8')) if CACHE.exists() else {}
    if have.get('versions') != versions():
        have = dict(versions=versions(), timm=timm_families(), functions=function_families())
        CACHE.parent.mkdir(exist_ok=True)
        CACHE.write_text(json.dumps(have), encoding='utf-8')
    res = [[n, k, o] for k, (n, o) in have['timm'].items()]
    for k, v in have['functions'].items():
        res += [[n, k, o] for n, o, own in v if own] or [[v[0][0], k, v[0][1]]]
    return [[k, o] for _, k, o in sorted(res)]

def versions():
    "Of the packages that the table depends on."
    names = 'fastai torch torchvision timm onnx onnxscript onnxruntime'
    return {o: importlib.metadata.version(o) for o in names.split()}

# --- one net

def own_size(name, family):
    "(height, width) of the images that a net was made for, or less where these are large."
    import timm
    import torchvision
    lib = family.split('/')[0]
    if lib == 'timm':
        cfg = timm.get_pretrained_cfg(name)
        if max(cfg.input_size) <= 400 or cfg.fixed_input_size or not cfg.min_input_size: return cfg.input_size[-2:]
        return tuple(2*o for o in cfg.min_input_size[-2:])    # it takes any size, and large ones take all day
    if lib == 'torchvision':
        return tuple(torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size*2)[:2]
    return (128, 128)

def randomise(model, x, seed=0):
    """Random norms, biases and layer scales, and batch norm statistics near those of `x`.

    `samples.toys.randomise` draws the statistics without looking: in a net of a hundred layers the answers then vanish,
    or are the same for all images, or rounding decides on them. So here they are measured, and chaotic nets damped."""
    import torch
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        first = p.detach().flatten()[0].item()
        if p.numel() < 2 or not (p == first).all(): continue
        p.data.copy_(torch.randn(p.shape, generator=g)*.1 + (first if abs(first) > .05 else .1 if first else 0.))
    norms = [m for m in model.eval().modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for m in norms: m.momentum = 1.
    with torch.no_grad(): [m.train() for m in norms], model(x), model.eval()
    for m in norms:    # with fresh statistics a deep net would give all images one answer
        mean, var = m.running_mean, m.running_var
        mean += torch.randn(mean.shape, generator=g)*.1*var.sqrt()
        var.mul_(torch.rand(var.shape, generator=g)*.5 + .75).add_(.01*var.mean() + 1e-3)
        m.momentum = .1
    for _ in range(12): # random nets may be chaotic, so that rounding decides on the answer: damp these
        if rounding(model, x[4:]) <= 1e-5: break
        for m in norms: m.running_var *= 1.25
    return model

def rounding(model, x):
    "How far answers in single precision are from those in double; 0 where a net cannot do double."
    import torch
    with torch.no_grad():
        a = model(x)
        try: b = model.double()(x.double())
        except RuntimeError: return 0.
        finally: model.float()
    return float((a-b).abs().max()/b.abs().max())

def images(n, size, seed=0):
    "`n` random images, uint8 [n,3,h,w]: noise of several sizes, on a ground of their own."
    import torch
    g = torch.Generator().manual_seed(seed)
    def up(s): return torch.nn.functional.interpolate(torch.rand(n, 3, s, s, generator=g), size=size, mode='bilinear')
    x = (up(2) + up(8) + torch.rand(n, 3, *size, generator=g)*.5)/2.5
    return (x*255).round().to(torch.uint8)

def a_learner(arch, size):
    "A Learner of fastai's for the digits, with random weights."
    import torch
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, imagenet_stats, vision_learner

    from fastai_deploy.samples.digits import digits
    dls = ImageDataLoaders.from_folder(digits(), valid_pct=.1, seed=0, bs=2, num_workers=0, item_tfms=Resize(size),
                                       batch_tfms=[Normalize.from_stats(*imagenet_stats)])
    try: learn = vision_learner(dls, arch, pretrained=False, normalize=False)
    except StopIteration: raise ValueError('fastai finds no pooling layer to cut the net at') from None
    except RuntimeError as e:
        if isinstance(arch, str): raise
        raise ValueError("fastai runs the net's children one after the other, which this net does not do") from e
    x = images(8, size)
    x[5].random_(0, 256), x[6].fill_(0), x[7].fill_(255)   # the graph is checked with noise, black and white
    x = net_input(learn, x)
    try: randomise(learn.model, x)
    except RuntimeError as e:    # fastai builds the net and cannot run it: one reason is known
        with torch.no_grad(): shape = list(learn.model[0](x).shape)
        if len(shape) != 4 or shape[-1] < shape[1]: raise
        raise ValueError(f"the body gives {shape}, channels last, and fastai's head pools the last two") from e
    return learn

def net_input(learn, x):
    "What a Learner's net receives for a batch of bytes: its own batch transforms."
    from fastai.torch_core import TensorImage
    return learn.dls.valid.after_batch((TensorImage(x),))[0]

def live(learn, x):
    "The raw outputs of a Learner for a batch of bytes."
    import torch
    with torch.no_grad(): return torch.as_tensor(learn.model(net_input(learn, x))).numpy()

def difference(a, b):
    "Largest difference, relative to the largest value; infinite where the shapes differ."
    import numpy as np
    return float(np.abs(a-b).max()/max(np.abs(a).max(), 1e-6)) if a.shape == b.shape else math.inf

def run_net(family, name):
    "The row of one net. What goes wrong is a row too."
    import torch
    torch.manual_seed(0)
    row, t = dict.fromkeys(COLUMNS) | dict(family=family, net=name), time.time()
    try: fill_in(row)
    except Exception as e:
        row['result'] = row['result'] if row['result'] == 'fastai' else 'failed'
        row['cause'] = ' '.join(f'{type(e).__name__}: {e}'.split())[:400]
    row['seconds'] = round(time.time() - t, 1)
    return row

def fill_in(row):
    import numpy as np
    import onnxruntime as ort

    from fastai_deploy.learner.capture import capture
    from fastai_deploy.graph.export_onnx import export_onnx
    from fastai_deploy.nets.rebuild import rebuild
    row['result'], lib = 'fastai', row['family'].split('/')[0]
    size = own_size(row['net'], row['family'])
    row['size'] = 'x'.join(map(str, size))
    learn = a_learner(row['net'] if lib == 'timm' else functions()[row['net']], size)
    row['weights'] = sum(p.numel() for p in learn.model.parameters())
    xs = [images(n, size, n) for n in (1, 3)]
    want = [live(learn, x) for x in xs]
    if want[1].shape != (3, learn.dls.c): raise ValueError(f'the net gives {list(want[1].shape)} for three images')
    if not np.isfinite(want[1]).all(): raise ValueError('the net gives no finite numbers')
    row['result'] = 'failed'
    c = capture(learn)
    row['result'] = result = 'opaque' if c.spec.net['source'] == 'opaque' else 'rebuilt'
    net = c.model if result == 'opaque' else rebuild(c.spec.net, c.model.state_dict())
    row['cause'] = c.spec.net.get('why')
    with tempfile.TemporaryDirectory() as tmp:
        f = Path(tmp)/'model.onnx'
        row['exporter'] = export_onnx(c.spec.batch, net, f, size, 3, 'identity')['exporter']
        sess = ort.InferenceSession(f.read_bytes(), providers=['CPUExecutionProvider'])
        got = [sess.run(None, {'image': x.numpy()})[0] for x in xs]
    row['parity'] = max(map(difference, want, got))
    if np.ptp(want[1], axis=0).max() < 1e-2*np.abs(want[1]).max(): raise ValueError('all images get one answer')
    if not row['parity'] <= TOLERANCE: raise ValueError(f"ONNX Runtime's answers differ by {row['parity']:.1e}")

# --- the worker, and the one who watches it

def worker(memory):
    "Answer one line of JSON for each that comes in. Whatever libraries print goes to the error stream."
    out = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    if memory and os.name == 'posix':
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory*2**30),)*2)
    import torch
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 2)))
    warnings.filterwarnings('ignore')
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(families() if job == 'families' else run_net(*job)), file=out, flush=True)
        gc.collect()

class Worker:
    "A process that does jobs; a new one when the last is gone."
    def __init__(self, cmd): self.cmd, self.proc, self.pool = cmd, None, ThreadPoolExecutor()

    def stop(self):
        if self.proc: self.proc.kill(), self.proc.wait()
        self.proc = None

    def __call__(self, job, limit):
        "(answer, None), or (None, cause) if it took longer than `limit` seconds or the process died."
        if self.proc is None:
            self.proc = subprocess.Popen(self.cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding='utf-8')
        try:
            self.proc.stdin.write(json.dumps(job) + '\n'), self.proc.stdin.flush()
            line = self.pool.submit(self.proc.stdout.readline).result(limit)
        except TimeoutError: return self.stop(), f'it took longer than {limit} s'
        except OSError: line = None
        if line: return json.loads(line), None
        rc = self.proc.wait()
        return self.stop(), f'the process died (exit code {rc}): out of memory, or a crash'

def read_table(path=TABLE):
    "The table: made_by (versions) and rows; empty if there is none."
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else dict(made_by={}, rows=[])

def write_table(rows, path=TABLE):
    "Write the table, one row a line, sorted."
    from fastai_deploy.run.beside import beside
    rows = sorted(rows, key=lambda o: (o['family'], o['net']))
    lines = ',\n'.join('  ' + json.dumps({k: o[k] for k in COLUMNS}, ensure_ascii=False) for o in rows)
    text = f'{{"made_by": {json.dumps(versions())},\n "rows": [\n{lines}\n]}}\n'
    with beside(path) as new: new.write_text(text, encoding='utf-8', newline='\n')

def zoo(todo, run, path=TABLE, limit=600, keep=()):
    "Run the nets of `todo` that are not among the rows `keep`; each is in the table at once."
    rows = {(o['family'], o['net']): o for o in keep}
    todo = [tuple(o) for o in todo if tuple(o) not in rows]
    for i, (family, net) in enumerate(todo):
        t = time.time()
        row, cause = run([family, net], limit)
        row = row or dict.fromkeys(COLUMNS) | dict(family=family, net=net, result='failed', cause=cause,
                                                   seconds=round(time.time() - t, 1))
        rows[family, net] = row
        write_table(rows.values(), path)
        said = f"{row['parity']:.0e}" if row['parity'] is not None else ''
        print(f"{i+1}/{len(todo)} {family:36} {net:40} {row['result']:8} {said:6} {row['exporter'] or '':12} "
              f"{row['seconds']:6} s  {row['cause'] or ''}", flush=True)
    return list(rows.values())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='families or nets: only these')
    p.add_argument('--again', action='store_true', help='run them again; without names: all that are not rebuilt')
    p.add_argument('--fresh', action='store_true', help='begin with an empty table')
    p.add_argument('--limit', type=float, default=600, help='seconds for one net')
    p.add_argument('--memory', type=float, default=14, help='GB for one net (Linux)')
    p.add_argument('--table', type=Path, default=TABLE, help='the file to write')
    p.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(a.memory)
    run, table = Worker([sys.executable, __file__, '--worker', '--memory', str(a.memory)]), read_table(a.table)
    todo, cause = run('families', 3600)
    if cause: sys.exit(f'the nets could not be listed: {cause}')
    named = [o for o in todo if not a.names or set(o) & set(a.names)]
    keep = [] if a.fresh or table['made_by'] != versions() else table['rows']
    def again(o): return a.again and ([o['family'], o['net']] in named and (a.names or o['result'] != 'rebuilt'))
    rows = zoo(named, run, a.table, a.limit, [o for o in keep if not again(o)])
    run.stop()
    print(', '.join(f"{sum(o['result'] == k for o in rows)} {k}" for k in RESULTS), 'of', len(rows))

if __name__ == '__main__': main()
