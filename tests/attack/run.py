"""Attack the library with a corpus of hostile input, in child processes with limits of memory and time.

    python tests/attack/run.py                      a sample of every corpus
    python tests/attack/run.py images --n 2000      more of one
    python tests/attack/run.py --table              all of them, at length; writes nbs/reference/attacks.json

A corpus is a module beside this file: `cases(seed, n)` yields (class, case), `attack(case, folder)` runs one case and
says 'refused', or 'answered' or 'opened'. What else may happen, and must not: another exception than ours, a wrong
answer (AssertionError), a hang, the death of the process. The cases of the class 'sound' must be answered."""
import argparse, importlib, json, os, queue, shutil, signal, subprocess, sys, tempfile, threading, time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORPORA = ['bundles', 'images', 'kills', 'models']
FINE = 'refused', 'answered'
SECONDS, GIGABYTES = 30, 6      # for one case; of address space for a child, of which Python and its packages take half
SAMPLE = dict(bundles=160, images=400, kills=6, models=200)
MANY = dict(bundles=2000, images=8000, kills=60, models=6000)

# --- the child

def child(corpus, seed, n, start):
    "Run the cases from number `start` on; a line of JSON on stdout for each, before it and after it."
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES*2**30,)*2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError: pass     # Windows: only the time is limited there
    out = os.fdopen(os.dup(1), 'w', encoding='utf-8', buffering=1)
    os.dup2(2, 1)                # whatever a library prints is not mixed with the lines
    sys.path[:0] = [str(HERE), str(ROOT)]
    from fastai_deploy.run.basics import FastaiDeployError
    module = importlib.import_module(corpus)
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, case) in enumerate(module.cases(seed, n)):
            if i < start: continue
            print(json.dumps([i, name]), file=out)
            try: said, why = module.attack(case, place(folder, i)), ''
            except FastaiDeployError as e: said, why = 'refused', str(e)
            except AssertionError as e: said, why = 'wrong', f'{e}'
            except Exception as e: said, why = 'foreign', f'{type(e).__name__}: {e}'
            print(json.dumps([said, why[:300]]), file=out)

def place(folder, i):
    "A new folder for a case; the last one's is removed."
    shutil.rmtree(Path(folder)/str(i - 1), ignore_errors=True)
    to = Path(folder)/str(i)
    to.mkdir()
    return to

# --- the parent

def _lines(corpus, seed, n, start):
    "Start a child: (process, queue of its lines; None at its end)."
    args = [sys.executable, str(HERE/'run.py'), corpus, '--child', str(start), '--seed', str(seed), '--n', str(n)]
    env = dict(os.environ, OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', PYTHONWARNINGS='ignore', PYTHONUTF8='1')
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=env,
                         text=True, encoding='utf-8')
    lines = queue.Queue()
    def read():
        for line in p.stdout: lines.put(json.loads(line))
        lines.put(None)
    threading.Thread(target=read, daemon=True).start()
    return p, lines

def run(corpus, seed=0, n=100, report=lambda line: None):
    "Attack with `n` cases of a corpus: {class: {outcome: how often}}, and a line for each bad outcome."
    found, bad, start = {}, [], 0
    while True:
        p, lines = _lines(corpus, seed, n, start)
        case, ended = None, False
        while not ended:
            try: line = lines.get(timeout=SECONDS if case else 10*SECONDS)   # the imports and the corpus take a while
            except queue.Empty: said, why = 'hung', f'no answer in {SECONDS} s'
            else:
                if line is None: ended, said, why = True, 'died', _death(p.wait())
                elif case is None: case = line; continue
                else: said, why = line[0].replace('opened', 'answered'), line[1]
            if case is None:      # the end of the corpus, or a corpus that cannot be made
                if p.returncode: raise RuntimeError(f'{corpus}: no cases: {why}')
                return found, bad
            if case[1] == 'sound' and said == 'refused': said = 'wrong'   # or all the others are refused for nothing
            found.setdefault(case[1], Counter())[said] += 1
            if said not in FINE:
                bad.append(f'{corpus}, case {case[0]} ({case[1]}): {said}: {why}')
                report(bad[-1])
            start, case = case[0] + 1, None
            if said == 'hung': p.kill(); p.wait(); ended = True

def _death(code):
    try: return f'ended by {signal.Signals(-code).name}' if code < 0 else f'ended with exit code {code}'
    except ValueError: return f'ended with exit code {code}'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('corpora', nargs='*', help='bundles, images, kills, models; all by default')
    p.add_argument('--n', type=int, help='how many cases of each')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--table', action='store_true', help='many cases of all; write nbs/reference/attacks.json')
    p.add_argument('--child', type=int, metavar='START', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child is not None: return child(a.corpora[0], a.seed, a.n, a.child)
    table, failed = {}, 0
    for corpus in a.corpora or CORPORA:
        t, n = time.time(), a.n or (MANY if a.table else SAMPLE)[corpus]
        found, bad = run(corpus, a.seed, n, lambda line: print(line, flush=True))
        for name, counts in sorted(found.items()):
            print(f"{corpus}: {name:32} {sum(counts.values()):6}  " + ', '.join(f'{k} {v}' for k, v in counts.items()))
        print(f'{corpus}: {sum(sum(c.values()) for c in found.values())} cases in {time.time()-t:.0f} s', flush=True)
        table[corpus], failed = {k: dict(v) for k, v in sorted(found.items())}, failed + len(bad)
    if a.table and not a.corpora:
        made_by = {o: version(o) for o in ('fastai_deploy', 'onnxruntime', 'pillow', 'numpy')}
        text = json.dumps(dict(made_by=made_by, seed=a.seed, found=table), indent=1) + '\n'
        (ROOT/'nbs'/'reference'/'attacks.json').write_text(text, encoding='utf-8')
    print(f'{failed} bad outcomes')
    sys.exit(1 if failed else 0)

if __name__ == '__main__': main()
