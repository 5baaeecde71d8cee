"""`make test`: lint, every test of the package, a sample of attacks, then the tests in the environment with the newest
fastai.

One closing line sums all of it; the exit code is non-zero when anything failed or nothing ran."""
import argparse, os, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from pathlib import Path

from env import ROOT, python_of

LATEST = 'tests/test_latest.py'                                # runs there alone
BOTH = [f'tests/test_{o}.py' for o in ('inputs', 'properties', 'tasks')]   # against fastai, the old and the newest

def python(*args):
    "Run the work environment's Python: (passed, failed, skipped), as one test."
    rc = subprocess.run([python_of('dev'), *args], cwd=ROOT).returncode
    return (0, 1, 0) if rc else (1, 0, 0)

def counts(xml):
    "(passed, failed, skipped) from a JUnit file; a run that broke before it wrote one has failed."
    if not xml.exists(): return 0, 1, 0
    suites = [*ET.parse(xml).getroot().iter('testsuite')]
    n, failures, errors, skipped = (sum(int(o.get(k)) for o in suites) for k in 'tests failures errors skipped'.split())
    return n - failures - errors - skipped, failures + errors, skipped

def pytest(env, *args, slow=False, **more):
    "Run pytest in environment `env`: (passed, failed, skipped)."
    with tempfile.TemporaryDirectory() as tmp:
        xml = Path(tmp)/'junit.xml'
        # one thread per process: two test processes on two cores; matplotlib without a screen
        vars = dict(os.environ, OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE', MPLBACKEND='agg', PYTHONUTF8='1',
                    FASTAI_DEPLOY_FLAGS='slow' if slow else '', **more)
        rc = subprocess.run([python_of(env), '-m', 'pytest', f'--junitxml={xml}', *args], cwd=ROOT, env=vars).returncode
        passed, failed, skipped = counts(xml)
    if rc and not failed: failed = 1     # for instance: no test collected
    return passed, failed, skipped

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--only', choices=['lint', 'notebooks', 'attack', 'latest'])
    p.add_argument('--slow', action='store_true', help='run the cells flagged `slow` too')
    p.add_argument('args', nargs='*', help='more arguments for pytest')
    a, rest = p.parse_known_args()
    fewer = os.environ.get('FASTAI_DEPLOY_EXAMPLES', '500')
    t, only, rest, workers = time.time(), a.only, a.args + rest, ['-n', '2', '--dist', 'worksteal']
    steps = {'lint': lambda: python('-m', 'ruff', 'check', 'nbs', 'fastai_deploy', 'tools', 'tests', 'setup.py'),
             'attack': lambda: python('tests/attack/run.py', '--seed', '1'),
             'tests': lambda: pytest('dev', *workers, f'--ignore={LATEST}', *rest, slow=a.slow),
             'notebooks': lambda: pytest('dev', *workers, 'tests/test_notebooks.py', *rest, slow=a.slow),
             'latest': lambda: pytest('latest', *workers, '-p', 'no:cacheprovider', LATEST, *BOTH, *rest,
                                      FASTAI_DEPLOY_EXAMPLES=fewer)}
    total = [0, 0, 0]
    for name in [only] if only else ['lint', 'tests', 'attack', 'latest']:
        print(f'== {name}', flush=True)
        total = [x + y for x, y in zip(total, steps[name]())]
    passed, failed, skipped = total
    print(f'\nin {time.time() - t:.0f} s\n{passed} passed, {failed} failed, {skipped} skipped', flush=True)
    sys.exit(1 if failed or not passed else 0)

if __name__ == '__main__': main()
