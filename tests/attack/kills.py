"Writers that are killed while they overwrite a bundle, and readers that look on."
import os, random, signal, subprocess, sys, time
from pathlib import Path

from fastai_deploy.run.bundle import open_bundle
from fastai_deploy.run.write_bundle import write_bundle
from fastai_deploy.run.spec import Input, Output, Spec

SPEC = Spec(Input([8, 8]), [], [], dict(source='opaque', why='a toy'), Output([3], 'softmax'))

def files(version):
    "The files of one version: all of them say which one it is."
    mark = str(version).encode()
    return {'model.onnx': mark*50_000, 'vocab.txt': mark + b'a\nb\nc\n',
            **{f'golden/{i}.png': mark*999 for i in range(8)}}

def version(path):
    "Which version is at `path`: all of its files say the same."
    with open_bundle(path) as b:
        said = {b.read(n)[:1] for n in b.spec.files}
        assert len(said) == 1, f'versions {said} in one bundle'
        return said.pop()

def write_for_ever(path):
    n = 0
    while True:
        write_bundle(path, SPEC, files(n % 10), overwrite=True)
        n += 1

def read_for_ever(path):
    "Open the bundle again and again until stdin ends; say how often that was, and how often it failed."
    import threading
    done, n, failed = threading.Event(), 0, []
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    while not done.is_set():
        n += 1
        try: version(path)
        except Exception as e: failed.append(f'{type(e).__name__}: {e}')
    print(n, len(failed), failed[:1])

def child(what, path): return subprocess.Popen([sys.executable, __file__, what, str(path)], stdin=subprocess.PIPE,
                                               stdout=subprocess.PIPE, text=True)

def cases(seed=0, n=12):
    "(class, case): a bundle's directory or zip, and when its writers are killed."
    for i in range(n): yield f"kill: {('directory', 'zip')[i % 2]}", (('bundle', 'bundle.zip')[i % 2],
        seed*1_000_003 + i)

def attack(case, folder, kills=10):
    "'answered' if a sound bundle was there after every kill, every reader always found one, and nothing is left over."
    name, seed = case
    rng, path = random.Random(seed), Path(folder)/name
    write_bundle(path, SPEC, files(0))
    (path.parent/'thesis.txt').write_text('somebody else wrote this')
    if path.is_dir(): (path/'README.md').write_text('a model card')
    readers = [child('read', path) for _ in range(2)]
    try:
        for _ in range(kills):
            writer = child('write', path)
            end = time.time() + 30
            while not list(path.parent.glob('.*.part')) and time.time() < end: time.sleep(.005)  # it is at work
            time.sleep(rng.uniform(0, .2))
            writer.send_signal(signal.SIGKILL if os.name == 'posix' else signal.SIGTERM)
            writer.communicate()
            version(path)
    finally: told = [r.communicate()[0] for r in readers]
    for out in told:
        n, failed, first = out.split(' ', 2)
        assert int(n) and not int(failed), f'{failed} of {n} reads failed: {first}'
    write_bundle(path, SPEC, files(1), overwrite=True)
    assert version(path) == b'1'
    assert {p.name for p in path.parent.iterdir()} == {name, 'thesis.txt'}, 'something is left over'
    assert path.is_file() or (path/'README.md').read_text() == 'a model card'
    return 'answered'

if __name__ == '__main__': dict(write=write_for_ever, read=read_for_ever)[sys.argv[1]](Path(sys.argv[2]))
