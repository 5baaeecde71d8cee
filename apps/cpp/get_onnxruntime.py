#!/usr/bin/env python3
"""Make the folder onnxruntime/ (include/ and lib/, as in the official release) on Debian and its kin.

The library comes from the Python package, the C++ headers from the Debian package libonnxruntime-dev, unpacked
and not installed. The C API is versioned: headers work with the same or a newer library.
"""
import os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

VERSION = '1.31.0'  # of the library
SUITE   = 'trixie'  # the first Debian that has the headers
KEYRING = Path('/usr/share/keyrings/debian-archive-keyring.gpg')
HERE    = Path(__file__).resolve().parent
RELEASE = ('download the C/C++ release from ONNX Runtime\'s site, unpack it, and build with '
           'cmake -B build -DONNXRUNTIME_ROOT=/path/to/onnxruntime-linux-x64-1.x')

def out(*cmd, **kw):
    "What a command prints"
    return subprocess.run(cmd, check=True, text=True, stdout=subprocess.PIPE, env={**os.environ, 'LC_ALL': 'C'}, **kw).stdout

def library(tmp, to):
    "The shared library, out of the Python package"
    where = ['install', '--quiet', '--no-deps', '--only-binary', ':all:', '--target', str(tmp/'py'), f'onnxruntime=={VERSION}']
    has_pip = subprocess.run([sys.executable, '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if has_pip: out(sys.executable, '-m', 'pip', '--disable-pip-version-check', *where)
    elif shutil.which('uv'): out('uv', 'pip', where[0], '--python', sys.executable, *where[1:])
    else: sys.exit(f'get_onnxruntime: {sys.executable} has no pip (on Debian: python3-pip); or {RELEASE}')
    found, = (tmp/'py/onnxruntime/capi').glob('libonnxruntime.so.1.*')
    to.mkdir(parents=True)
    shutil.copy(found, to)
    (to/'libonnxruntime.so.1').symlink_to(found.name)
    (to/'libonnxruntime.so').symlink_to('libonnxruntime.so.1')

def mirror():
    "The Debian mirror that this machine uses"
    for line in out('apt-get', 'indextargets', '--format', '$(REPO_URI) $(COMPONENT) $(LABEL)', 'Created-By: Packages').splitlines():
        uri, component, *label = line.split()  # no label where apt's lists are not there
        if component == 'main' and (label == ['Debian'] or not label and uri.rstrip('/').endswith('/debian')): return uri

def debian(tmp):
    "Options that make apt see only `SUITE`, with its lists kept in `tmp`; None if this is no Debian"
    uri = mirror()
    if not uri or not KEYRING.exists(): return None
    for d in ('lists/partial', 'cache/archives/partial'): (tmp/d).mkdir(parents=True)
    (tmp/'suite.list').write_text(f'deb [signed-by={KEYRING}] {uri} {SUITE} main\n')
    opts = [f'Dir::Etc::sourcelist={tmp}/suite.list', 'Dir::Etc::sourceparts=-', f'Dir::State::lists={tmp}/lists',
            f'Dir::Cache={tmp}/cache', 'Acquire::Languages=none']
    opts = [o for opt in opts for o in ('-o', opt)]
    out('apt-get', '-qq', *opts, 'update')
    return opts

def headers(tmp, to):
    "The C++ headers, out of the Debian package"
    if not shutil.which('apt-get'): return False
    known = out('apt-cache', 'policy', 'libonnxruntime-dev')
    opts = [] if 'Candidate:' in known and '(none)' not in known.split('Candidate:')[1].split('\n')[0] else debian(tmp)
    if opts is None: return False
    out('apt-get', '-qq', *opts, 'download', 'libonnxruntime-dev', cwd=tmp, stderr=subprocess.DEVNULL)
    deb, = tmp.glob('libonnxruntime-dev_*.deb')
    out('dpkg-deb', '-x', str(deb), str(tmp/'dev'))
    shutil.copytree(tmp/'dev/usr/include/onnxruntime', to)
    api = int(re.search(r'#define ORT_API_VERSION (\d+)', (to/'onnxruntime_c_api.h').read_text())[1])
    if api > int(VERSION.split('.')[1]): sys.exit(f'get_onnxruntime: headers of 1.{api}, library {VERSION}: set VERSION in this script')
    return True

def main():
    final = HERE/'onnxruntime'
    if os.environ.get('ONNXRUNTIME_ROOT'): return print('ONNXRUNTIME_ROOT is set: nothing to do')
    if final.exists(): return print(f'{final.name}/ is there: nothing to do')
    with tempfile.TemporaryDirectory(prefix='.get-', dir=HERE) as tmp:
        tmp = Path(tmp)
        tmp.chmod(0o755)  # apt reads it as another user
        try:
            if not headers(tmp, tmp/'made/include'): sys.exit(f'get_onnxruntime: no package of the C++ headers here: {RELEASE}')
            library(tmp, tmp/'made/lib')
        except subprocess.CalledProcessError as e:
            sys.exit(f'get_onnxruntime: {" ".join(e.cmd[:2])} failed ({e.returncode}): {RELEASE}')
        (tmp/'made').rename(final)
    print(f'made {final.name}/, ONNX Runtime {VERSION}')

if __name__ == '__main__': main()
