"Bundle files from strangers, among other files, in the Hub's cache, and overwritten while somebody reads."
import json, os, re, shutil, subprocess, sys, threading, zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import conftest
import pytest

from fastai_deploy import BundleError, open_bundle
from fastai_deploy.run import write_bundle as writing
from fastai_deploy.run.beside import sweep
from fastai_deploy.run.write_bundle import check_place, update_bundle, write_bundle
from fastai_deploy.run.spec import Input, Output, Spec

SPEC = Spec(Input([8, 8]), [], [], dict(source='opaque', why='a toy'), Output([3], 'softmax'))
FILES = {'model.onnx': b'no net', 'vocab.txt': b'a\nb\nc\n', 'golden/0.png': b'an image'}
OTHER = {**FILES, 'vocab.txt': b'd\ne\nf\n'}
posix = pytest.mark.skipif(os.name != 'posix', reason='Windows has none of these')
pytestmark = pytest.mark.may_skip

@pytest.fixture
def toy(tmp_path): return write_bundle(tmp_path/'toy', SPEC, FILES)

def zipped(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', method) as z:
        for n, b in files.items(): z.writestr(n, b)
    return path

def content(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}

def refused(path, why, **kwargs):
    with conftest.refused(BundleError, re.escape(why)): open_bundle(path, **kwargs)

# --- reading

@posix
@pytest.mark.parametrize('name', [*FILES, 'bundle.json'])
def test_regular_files_only(toy, name):
    "A FIFO is not waited for, a device is not read, a folder is no file."
    for make in (os.mkfifo, os.mkdir, lambda p: os.symlink('/dev/zero', p)):
        (toy/name).unlink()
        make(toy/name)
        with pytest.raises(BundleError, match='regular file|leads out'): open_bundle(toy)
        (toy/name).rmdir() if (toy/name).is_dir() else (toy/name).unlink()
        (toy/name).touch()

@posix
@pytest.mark.parametrize('path', ['/', '/dev/zero', '/dev', 'a\0b', '/proc/self/mem'])
def test_no_bundle_answers_at_once(path):
    with patch('os.walk', side_effect=AssertionError), patch('pathlib.Path.rglob', side_effect=AssertionError):
        refused(path, path)

def test_reads_no_more_than_declared(toy):
    "A file of 100 GB that takes no place on the disk is refused by its length, and one that grows is not read on."
    b = open_bundle(toy)
    os.truncate(toy/'vocab.txt', 10**11)
    refused(toy, 'vocab.txt has another length')
    with pytest.raises(BundleError, match='another length'): b.read('vocab.txt')
    os.truncate(toy/'bundle.json', 16_000_001)
    refused(toy, 'bundle.json is larger than')

@pytest.mark.parametrize('files, why', [
    ({'parity.json': 32_000_001}, 'parity.json is larger'), ({'model.onnx': 2**31+1}, 'model.onnx is larger'),
    ({f'golden/{i}.png': 2**31 for i in range(5)}, 'larger than 8 GiB')])
def test_limits(toy, files, why):
    spec = json.loads((toy/'bundle.json').read_text())
    spec['files'] |= {n: dict(sha256='0'*64, bytes=length) for n, length in files.items()}
    (toy/'bundle.json').write_text(json.dumps(spec))
    refused(toy, why)

def test_sha256(toy):
    b = open_bundle(toy)
    assert open_bundle(toy, sha256=b.sha256.upper()).sha256 == b.sha256
    refused(toy, 'another bundle than you asked for', sha256='0'*64)
    for bad in ('', 'abc', 7, '0'*63+'g'): refused(toy, '64 hexadecimal digits', sha256=bad)

def test_other_files_are_ignored(toy, tmp_path):
    "A model card, a folder of git, a FIFO and a link to everything: none of them is looked at."
    (toy/'README.md').write_text('a model card')
    (toy/'.DS_Store').write_bytes(b'x')
    (toy/'.git').mkdir()
    if os.name == 'posix':
        os.mkfifo(toy/'fifo')
        (toy/'all').symlink_to('/')
    assert open_bundle(toy).vocab() == ['a', 'b', 'c']
    files = content(write_bundle(tmp_path/'other', SPEC, FILES))
    z = zipped(tmp_path/'x.zip', {**{f'toy/{n}': b for n, b in files.items()}, '__MACOSX/toy/._bundle.json': b'x',
                                  '.DS_Store': b'x'})
    assert open_bundle(z).vocab() == ['a', 'b', 'c']

# --- links

def as_hub(toy, home):
    "The bundle as the Hub's cache has it: links to blobs."
    (home/'blobs').mkdir(parents=True)
    snapshot = home/'snapshots'/'0123'
    for i, (n, b) in enumerate(content(toy).items()):
        (home/'blobs'/str(i)).write_bytes(b)
        (snapshot/n).parent.mkdir(parents=True, exist_ok=True)
        (snapshot/n).symlink_to(os.path.relpath(home/'blobs'/str(i), (snapshot/n).parent))
    return snapshot

@posix
def test_hub_cache(toy, tmp_path):
    home = tmp_path/'models--org--toy'
    snapshot = as_hub(toy, home)
    assert open_bundle(snapshot).read('golden/0.png') == b'an image'
    (tmp_path/'link').symlink_to(snapshot)
    assert open_bundle(tmp_path/'link').vocab() == ['a', 'b', 'c']
    (home/'blobs'/'0').rename(tmp_path/'outside')
    first = next(p for p in snapshot.rglob('*') if p.is_symlink() and p.resolve().name == '0')
    first.unlink()
    first.symlink_to(tmp_path/'outside')
    refused(snapshot, f'{first.relative_to(snapshot).as_posix()} is a link that leads out of the bundle')
    refused(as_hub(toy, tmp_path/'elsewhere'), 'is a link that leads out of the bundle')

@posix
def test_links_out(toy, tmp_path):
    "Also of a folder, also where the content is right."
    shutil.move(toy/'golden', tmp_path/'golden')
    (toy/'golden').symlink_to(tmp_path/'golden')
    refused(toy, 'golden/0.png is a link that leads out of the bundle')

# --- zips

def test_hostile_zips(toy, tmp_path):
    files, z = content(toy), tmp_path/'z.zip'
    refused(zipped(z, {'bundle.json': bytes(10**7)}, zipfile.ZIP_DEFLATED), 'zip bomb')
    refused(zipped(z, files, zipfile.ZIP_LZMA), 'stored or deflated')
    refused(zipped(z, {f'{d}/{n}': b for n, b in files.items() for d in 'ab'}), 'more than one folder')
    with pytest.warns(UserWarning), zipfile.ZipFile(zipped(z, files), 'a') as o: o.writestr('vocab.txt', b'x')
    refused(z, 'vocab.txt stands in the zip twice')
    data = bytearray(zipped(z, files).read_bytes())
    data[data.index(b'PK\1\2')+8] |= 1
    z.write_bytes(data)
    refused(z, 'is encrypted')

@pytest.mark.parametrize('times, why', [(1, 'on top of each other'), (100_000, 'its list of contents is larger')])
def test_list_of_contents(toy, tmp_path, times, why):
    with zipfile.ZipFile(zipped(tmp_path/'z.zip', content(toy)), 'a') as z:
        z.filelist += [z.filelist[-1]]*times
        z._didModify = True
    refused(tmp_path/'z.zip', why)

def test_one_open_zip(toy, tmp_path):
    "The list of contents is read once, however many files there are."
    z = zipped(tmp_path/'z.zip', content(toy))
    with patch('zipfile.ZipFile._RealGetContents', autospec=True,
               side_effect=zipfile.ZipFile._RealGetContents) as reads:
        b = open_bundle(z)
        for n in FILES: b.read(n)
    assert reads.call_count == 1 or os.name != 'posix'

def test_threads(toy, tmp_path):
    files = {**FILES, 'model.onnx': os.urandom(3_000_000)}
    for p in (tmp_path/'big', tmp_path/'big.zip'):
        b = open_bundle(write_bundle(p, SPEC, files))
        with ThreadPoolExecutor(8) as pool: assert {*pool.map(b.read, ['model.onnx']*8)} == {files['model.onnx']}

def test_closed(toy):
    "What is read after `close` is opened for it, and is never another version."
    with open_bundle(toy) as b: pass
    assert b.source is None and b.read('vocab.txt') == FILES['vocab.txt']
    write_bundle(toy, SPEC, OTHER, overwrite=True)
    with pytest.raises(BundleError, match='another bundle was written there'): b.read('model.onnx')

@posix
def test_descriptors(toy, tmp_path):
    "Files are closed with the last reference, and after `close`."
    count = lambda: len(os.listdir('/proc/self/fd')) if Path('/proc/self/fd').exists() else 0
    z, before = zipped(tmp_path/'z.zip', content(toy)), count()
    for p in (toy, z):
        b = open_bundle(p)
        del b
        open_bundle(p).close()
        with pytest.raises(BundleError): open_bundle(p, sha256='0'*64)
    assert count() == before

# --- writing

@posix
@pytest.mark.parametrize('name', ['toy', 'toy.zip'])
def test_readers_of_what_is_overwritten(tmp_path, name):
    "Whoever opens and reads a bundle while it is overwritten has one version of it, whole."
    versions = [{n: bytes([65+i])*20_000 for n in FILES} for i in range(4)]
    path, done, failed, reads = write_bundle(tmp_path/name, SPEC, versions[0]), threading.Event(), [], []
    def read():
        while not done.is_set():
            try:
                b = open_bundle(path)
                reads.append(len({b.read(n)[:1] for n in FILES}))
            except Exception as e: failed.append(repr(e))
    threads = [threading.Thread(target=read) for _ in range(2)]
    for t in threads: t.start()
    with patch('os.fsync'):
        for i in range(60): write_bundle(path, SPEC, versions[i % 4], overwrite=True)
    done.set()
    for t in threads: t.join()
    assert not failed and len(reads) > 20 and set(reads) == {1}, failed[:1]

@posix
def test_held_after_overwriting(toy):
    "An open bundle stays what it was."
    b = open_bundle(toy)
    write_bundle(toy, SPEC, OTHER, overwrite=True)
    assert b.vocab() == ['a', 'b', 'c'] and open_bundle(toy).vocab() == ['d', 'e', 'f']
    with pytest.raises(BundleError, match='another bundle'): update_bundle(b, {'parity.json': b'{}'})

def test_without_exchange(toy):
    "Two renames do where there is no exchange."
    with patch.object(writing, '_exchange', return_value=False): write_bundle(toy, SPEC, OTHER, True)
    assert open_bundle(toy).vocab() == ['d', 'e', 'f'] and [p.name for p in toy.parent.iterdir()] == ['toy']

@pytest.mark.skipif(sys.platform not in ('linux', 'darwin'), reason='no exchange of names there')
def test_exchange(tmp_path):
    for n in 'ab': (tmp_path/n).mkdir()
    (tmp_path/'a'/'x').touch()
    assert writing._exchange(tmp_path/'a', tmp_path/'b') and (tmp_path/'b'/'x').exists()
    assert not writing._exchange(tmp_path/'a', tmp_path/'nowhere')

@posix
def test_leftovers(toy):
    "What a killed process left is removed; what another one is still writing is not, nor what is not ours."
    left, busy, other = (toy.parent/n for n in ('.toy-abcdefgh.part', '.toy-01234567.part', '.toy-notes'))
    (toy.parent/'.toy-________.part').mkdir()  # killed when there was nothing in it yet
    for p in (left, busy, other): (p/'new').mkdir(parents=True)
    code = ('import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)\n'
            'print("locked", flush=True); sys.stdin.read()')
    with subprocess.Popen([sys.executable, '-c', code, str(busy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as p:
        assert p.stdout.readline() == 'locked\n'
        write_bundle(toy, SPEC, FILES, overwrite=True)
        assert {p.name for p in toy.parent.iterdir()} == {'toy', busy.name, other.name}
        p.stdin.close()
    write_bundle(toy, SPEC, FILES, overwrite=True)
    assert not busy.exists()

@posix
def test_leftover_that_is_the_only_bundle(tmp_path):
    "Killed between two renames, where there is no exchange: the old bundle is not thrown away."
    left = tmp_path/'.toy-abcdefgh.part'
    write_bundle(left/'old', SPEC, FILES)
    sweep(tmp_path/'toy')
    assert left.exists()

OLDER = dict(older=b'{"format": "fastai_deploy/0", "x": 1}', damaged=b'{"format": "fastai_deploy/1", "inp')

@pytest.mark.parametrize('text', OLDER.values(), ids=OLDER)
@pytest.mark.parametrize('name', ['toy', 'toy.zip'])
def test_overwrite_older_or_damaged(tmp_path, name, text):
    path = tmp_path/name
    if name == 'toy':
        path.mkdir()
        (path/'bundle.json').write_bytes(text)
    else: zipped(path, {'bundle.json': text})
    refused(path, str(path))
    with pytest.raises(BundleError, match='overwrite=True'): check_place(path)
    assert open_bundle(write_bundle(path, SPEC, FILES, overwrite=True)).vocab() == ['a', 'b', 'c']

def test_overwrite_a_cut_zip(toy, tmp_path):
    z = write_bundle(tmp_path/'z.zip', SPEC, FILES)
    z.write_bytes(z.read_bytes()[:-50])
    refused(z, 'neither a directory nor a zip')
    assert open_bundle(write_bundle(z, SPEC, FILES, overwrite=True)).vocab() == ['a', 'b', 'c']

def test_overwrite_no_bundle(tmp_path):
    "A folder with somebody's bundle.json, a folder of photos, a pickle of learn.export, a text."
    for n, files in dict(app={'bundle.json': b'{"format": "webpack"}'}, photos={'cat.jpg': b'x'}).items():
        for f, b in files.items():
            (tmp_path/n).mkdir()
            (tmp_path/n/f).write_bytes(b)
    zipped(tmp_path/'model.pkl', {'archive/data.pkl': b'x'})
    (tmp_path/'notes.txt').write_text('"fastai_deploy/1" bundle.json')
    for n in ('app', 'photos', 'model.pkl', 'notes.txt'):
        with pytest.raises(BundleError, match='is no bundle, so it is not overwritten'):
            write_bundle(tmp_path/n, SPEC, FILES, overwrite=True)

def test_other_files_are_kept(toy, tmp_path):
    "By an overwrite and an update, of a folder and a zip; what was a bundle's own and is no more goes."
    (toy/'golden'/'notes.txt').write_text('mine')
    (toy/'docs').mkdir()
    (toy/'docs'/'card.md').write_text('a card')
    if os.name == 'posix': (toy/'link').symlink_to('docs/card.md')
    z = zipped(tmp_path/'toy.zip', content(toy))
    for p in (toy, z):
        write_bundle(p, SPEC, {n: FILES[n] for n in ('model.onnx', 'vocab.txt')}, overwrite=True)
        update_bundle(open_bundle(p), {'parity.json': b'{}'})
    assert (toy/'docs'/'card.md').read_text() == 'a card' and (toy/'golden'/'notes.txt').read_text() == 'mine'
    assert not (toy/'golden'/'0.png').exists() and (os.name != 'posix' or os.readlink(toy/'link') == 'docs/card.md')
    with zipfile.ZipFile(z) as o: names = set(o.namelist())
    assert {'docs/card.md', 'golden/notes.txt', 'parity.json'} <= names and 'golden/0.png' not in names

@posix
def test_link_stays_a_link(toy, tmp_path):
    "Whoever writes to a link writes to what it leads to."
    (tmp_path/'current').symlink_to(toy)
    write_bundle(tmp_path/'current', SPEC, OTHER, overwrite=True)
    assert (tmp_path/'current').is_symlink() and open_bundle(toy).vocab() == ['d', 'e', 'f']

def test_nothing_is_lost_that_cannot_be_listed(toy):
    "A folder that cannot be read is not thrown away."
    (toy/'mine').mkdir()
    with patch('os.scandir', side_effect=PermissionError('no')), pytest.raises(BundleError, match='cannot be written'):
        write_bundle(toy, SPEC, FILES, overwrite=True)
    assert (toy/'mine').exists() and open_bundle(toy)
