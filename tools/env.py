"""Make and reuse the project's environments; run a script in one of them.

    python tools/env.py dev run latest            make what is missing
    python tools/env.py dev run --exec FILE ...   then run FILE with the first one's Python

Only the standard library: this is what runs first on a fresh machine."""
import argparse, hashlib, json, os, re, shutil, subprocess, sys, tempfile, time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PETS = ROOT.parent/'shared'/'pets'/'images'    # real photos, where there are some
DIRS = {'dev': '.venv', 'run': '.venv-run', 'latest': '.venv-latest', 'triton': '.venv-triton'}
STAMP = 'fastai_deploy.json'   # in the environment: what was asked for when it was made

def settings():
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

def requirements(name):
    "The requirement list of environment `name`, from settings.ini alone."
    cfg = settings()
    req = lambda *ks: [o for k in ks for o in cfg[k].split()]
    return {'run': req('requirements'), 'latest': req('requirements', 'export_requirements', 'latest_requirements'),
            'triton': req('requirements', 'triton_server_requirements'),
            'dev': req(*(f'{o}requirements' for o in ('', 'export_', 'demo_', 'serve_', 'triton_', 'ray_',
                                                      'dev_')))}[name]

def python_of(name):
    d = ROOT/DIRS[name]
    return d/'Scripts'/'python.exe' if os.name == 'nt' else d/'bin'/'python'

def wanted(name):
    "What decides whether environment `name` can be reused."
    return dict(requirements=requirements(name), python='.'.join(map(str, sys.version_info[:2])),
                scripts=settings()['console_scripts'])

def app_files():
    "The sources of the programs in apps/, as git knows them; none where there is no git."
    r = subprocess.run(['git', 'ls-files', 'apps'], cwd=ROOT, capture_output=True, text=True, encoding='utf-8')
    return [o for o in r.stdout.splitlines() if (ROOT/o).is_file()]

def source_hash():
    "Digest of all that goes into a wheel of the package."
    h = hashlib.sha256()
    files = [ROOT/o for o in ('setup.py', 'pyproject.toml', 'settings.ini')]
    files += [ROOT/o for o in app_files()]
    for f in sorted(o for o in (ROOT/'fastai_deploy').rglob('*') if o.suffix in ('.py', '.json')) + files:
        h.update(f.relative_to(ROOT).as_posix().encode() + b'\0' + f.read_bytes())
    return h.hexdigest()

def find_uv():
    "Path of a uv that works, or None. FASTAI_DEPLOY_NO_UV=1 asks for pip."
    uv = None if os.environ.get('FASTAI_DEPLOY_NO_UV') else shutil.which('uv')
    return uv if uv and subprocess.run([uv, '--version'], capture_output=True).returncode == 0 else None

def call(*cmd, **kw):
    "Run a command in the repository root; stop with its exit code when it fails."
    rc = subprocess.run([str(o) for o in cmd], cwd=ROOT, **kw).returncode
    if rc: sys.exit(f'failed ({rc}): ' + ' '.join(map(str, cmd)))

def pip_install(name, *args):
    "Install into environment `name` with uv or pip."
    uv = find_uv()
    if uv: call(uv, 'pip', 'install', '-q', '--python', python_of(name), *args)
    else: call(python_of(name), '-m', 'pip', 'install', '-q', '--disable-pip-version-check', *args)

def create(name):
    d, uv = ROOT/DIRS[name], find_uv()
    if d.exists(): shutil.rmtree(d)
    if uv: return call(uv, 'venv', '-q', '--python', sys.executable, d)
    try: import ensurepip, venv  # noqa: F401 (Debian ships Python without them)
    except ImportError: sys.exit('this Python has no venv: install python3-venv, or uv')
    call(sys.executable, '-m', 'venv', d)

def build_wheel(out):
    "A wheel of the package in folder `out`, from a copy, so that no build folder is left or reused."
    with tempfile.TemporaryDirectory() as tmp:
        src = Path(tmp)/'src'; src.mkdir()
        shutil.copytree(ROOT/'fastai_deploy', src/'fastai_deploy', ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copytree(ROOT/'apps', src/'apps', ignore=shutil.ignore_patterns('node_modules', 'vendor', 'target'))
        for f in 'setup.py pyproject.toml settings.ini README.md LICENSE MANIFEST.in'.split():
            if (ROOT/f).exists(): shutil.copy(ROOT/f, src)
        uv = find_uv()
        if uv: call(uv, 'build', '-q', '--wheel', '--python', sys.executable, '-o', out, src)
        else: call(python_of('run'), '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', out, src)
    return next(Path(out).glob('*.whl'))

def install_package(name):
    "The package itself: a built wheel on the run side, the working tree elsewhere."
    if name != 'run': return pip_install(name, '--no-deps', '-e', '.')
    with tempfile.TemporaryDirectory() as tmp:
        pip_install(name, '--no-deps', '--force-reinstall', build_wheel(tmp))

def ensure(name):
    "Make environment `name`, or reuse it. Returns its Python."
    if name == 'triton' and sys.platform != 'linux': return print('.venv-triton: only for Linux, left out')
    stamp, want = ROOT/DIRS[name]/STAMP, wanted(name)
    have = json.loads(stamp.read_text(encoding='utf-8')) if stamp.exists() and python_of(name).exists() else {}
    src = source_hash() if name == 'run' else ''
    if have == {**want, 'source': src}: return python_of(name)
    t = time.time()
    fresh = {k: have.get(k) for k in want} != want
    print(f'{DIRS[name]}: {"making the environment" if fresh else "the package changed: installing it again"} ...',
          flush=True)
    if fresh:
        create(name)
        pip_install(name, *want['requirements'])
    if name != 'triton': install_package(name)  # what it runs is in the model repository
    stamp.write_text(json.dumps({**want, 'source': src}), encoding='utf-8')
    print(f'{DIRS[name]}: ready after {time.time() - t:.0f} s', flush=True)
    return python_of(name)

def clean():
    junk = list(DIRS.values()) + 'build dist _docs _proc demo_out .matrix .pytest_cache .ruff_cache .hypothesis'.split()
    for d in [ROOT/o for o in junk] + list(ROOT.glob('*.egg-info')): shutil.rmtree(d, ignore_errors=True)

def help_targets(makefile):
    "Print the targets of a Makefile with their `##` comments."
    for m in re.finditer(r'(?m)^([\w-]+):.*?## (.*)$', (ROOT/makefile).read_text(encoding='utf-8')):
        print(f'make {m[1]:12} {m[2]}')

def main():
    if sys.version_info < (3, 10):  # noqa: UP036 (this is where it is checked)
        sys.exit(f'Python 3.10 or newer is needed; this is {sys.version.split()[0]}')
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='environments: ' + ', '.join(DIRS))
    p.add_argument('--exec', nargs=argparse.REMAINDER, default=[], metavar='FILE ...')
    p.add_argument('--clean', action='store_true')
    p.add_argument('--help-targets', metavar='MAKEFILE')
    a = p.parse_args()
    if a.clean: return clean()
    if a.help_targets: return help_targets(a.help_targets)
    os.environ.pop('PYTHONDONTWRITEBYTECODE', None)   # many processes import the same packages: compile them once
    pythons = [*map(ensure, a.names)]
    if a.exec: sys.exit(subprocess.run([str(pythons[0]), *a.exec], cwd=ROOT).returncode)

if __name__ == '__main__': main()
