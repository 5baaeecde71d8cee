"A stranger's bundle in a process with limits: how it is started, what it may print, and that it never outlives us."
import os, signal, subprocess, sys, time
from pathlib import Path

import pytest

import fastai_deploy as fd
from fastai_deploy.run.loading import try_out

def python(code, folder, **kw):
    kw |= dict(cwd=folder, env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), *sys.path])))
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=99, **kw)

APP = '''
import fastai_deploy as fd
print('a module that talks')
@fd.register_op('myops.same')
def same(img): return img
with open('starts', 'a') as f: f.write('x')
model = fd.load({bundle!r}, sandbox=True)
'''

def test_a_module_that_loads(digits_bundle, tmp_path):
    "The child imports the module with the op, and the load in there starts no other child."
    (tmp_path/'app.py').write_text(APP.format(bundle=str(digits_bundle)))
    r = python('import app; print(app.model)', tmp_path)
    assert r.returncode == 0 and 'Model(digits' in r.stdout, r.stderr[-2000:]
    assert (tmp_path/'starts').read_text() == 'xx'   # here and in the one child

def test_an_op_of_the_script(digits_bundle, tmp_path):
    r = python(APP.format(bundle=str(digits_bundle)), tmp_path)
    assert "op 'myops.same' is registered in a script or notebook" in r.stderr and 'put it into a module' in r.stderr

def test_options(digits_bundle):
    "Options arrive as they are given; what cannot be handed over is said."
    fd.load(digits_bundle, sandbox=True, providers=[('CPUExecutionProvider', {})], engine='pixels', formats=['PNG'])
    with pytest.raises(fd.FastaiDeployError, match='cannot be started'): try_out(digits_bundle, max_pixels=b'1')
    for limits in (dict(seconds=0), dict(seconds=10**30), dict(memory=10**30), dict(memory=-1)):
        with pytest.raises(fd.FastaiDeployError, match='other limits'): try_out(digits_bundle, **limits)
    with pytest.raises(fd.BundleError, match='sandbox'): try_out(digits_bundle, memory=2**20)

@pytest.mark.parametrize('path', [None, '', 'no-such-python'])
def test_no_python(digits_bundle, monkeypatch, path):
    monkeypatch.setattr(sys, 'executable', path)
    with pytest.raises(fd.FastaiDeployError, match='the sandbox cannot be started'): try_out(digits_bundle)

@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux ends a child with its parent')
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_no_orphan(digits_bundle, tmp_path, how):
    "Whoever kills the command kills the sandbox."
    (tmp_path/'slow.py').write_text('import fastai_deploy as fd, time\n@fd.register_op("slow.op")\n'
                                    'def op(img): return img\n'
                                    'from fastai_deploy.run import loading\nif loading._inside: time.sleep(100)\n')
    code = f'import slow\nfrom fastai_deploy.run.loading import try_out\ntry_out({str(digits_bundle)!r})'
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    p = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, env=env)
    end, tasks = time.time() + 60, Path(f'/proc/{p.pid}/task/{p.pid}/children')
    while not (found := tasks.read_text().split()) and time.time() < end: time.sleep(.05)
    time.sleep(2)      # it has limited itself by now
    p.send_signal(how)
    p.wait()
    end = time.time() + 10
    while any(map(alive, found)) and time.time() < end: time.sleep(.05)
    assert found and not any(map(alive, found))

def alive(pid):
    "Whether a process runs: it is there, and no zombie."
    try: return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except FileNotFoundError: return False
