"A bundle on a cluster of several nodes: Ray Serve answers as the bundle does, Ray Data goes on when a node dies."
import io, json, os, subprocess, sys, time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from fastai_deploy import FastaiDeployError, load
from fastai_deploy.samples.toys import goldens_of, toy_bundle

ray = pytest.importorskip('ray', reason='Ray is not installed: the extra [ray]')
from ray import serve
from ray._common.network_utils import find_free_port
from ray.cluster_utils import Cluster

from fastai_deploy.serving.scale import predict, to_ray

STORE = dict(object_store_memory=80*2**20)

def slow():
    "In each worker: a net that takes 30 ms an image."
    import time
    from fastai_deploy.run.model import Model
    run = Model.run
    def slow(self, batch, *args, **kwargs):
        time.sleep(.03*len(batch))
        return run(self, batch, *args, **kwargs)
    Model.run = slow

def image(i):
    a = np.random.default_rng(i).integers(0, 60, (24, 32, 3), np.uint8)
    a[..., i%3] += 150
    return Image.fromarray(a)

def png(i):
    out = io.BytesIO()
    image(i).save(out, 'png')
    return out.getvalue()

@pytest.fixture(scope='module')
def cluster():
    "A head without a place for actors, and two nodes with one each."
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import a test
    c = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **STORE))
    for _ in range(2): c.add_node(num_cpus=1, **STORE)
    ray.init(c.address, log_to_driver=False, logging_level='error', runtime_env=dict(worker_process_setup_hook=slow))
    yield c
    ray.shutdown()
    c.shutdown()

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('bundle')
    return toy_bundle(tmp/'colours', files=goldens_of(toy_bundle(tmp/'plain'), [image(i) for i in range(4)]))

def answers(folder):
    import pyarrow.parquet as pq
    return pq.read_table(folder).to_pylist()

def test_a_node_dies(cluster, bundle, tmp_path):
    "A run is stopped, goes on, and one of its nodes dies: each image has one row, and each row is its image's."
    (photos := tmp_path/'photos').mkdir()
    for i in range(200): image(i).save(photos/f'{i:03}.png')
    (photos/'100.png').write_bytes(b'no image')
    out, shards, want = tmp_path/'out', dict(shard=8, k=None), load(bundle).predict_batch(sorted(photos.iterdir()))
    class Stop(Exception): pass
    def stop(done, total):
        if done >= 32: raise Stop
    with pytest.raises(Stop): predict(photos, bundle, out, progress=stop, **shards)
    there = {p: p.stat().st_mtime_ns for p in out.glob('part-*')}
    assert 4 <= len(there) < 25

    other = toy_bundle(tmp_path/'other', mean=.25)
    with pytest.raises(FastaiDeployError, match='answers with another bundle'): predict(photos, other, out, **shards)
    image(200).save(photos/'200.png')  # came after the plan was made
    killed = []
    def kill(done, total):
        if killed or done < 104: return
        killed.append(cluster.list_all_nodes()[-1])
        cluster.remove_node(killed[0], allow_graceful=False)
    run = predict(photos, bundle, out, progress=kill, **shards)
    assert killed and len({o['actor'][:6] for o in run.shards}) == 2
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())  # nothing was answered again
    rows = answers(out)
    assert [r['path'] for r in rows] == [str(photos/f'{i:03}.png') for i in range(201)]
    assert run.items + run.before == 201 and run.before >= 8*len(there)
    for r, p in zip(rows, want):
        if isinstance(p, Exception): assert r['label'] is None and r['error'] in str(p) and '100.png' in r['path']
        else: assert r['label'] == p.label and np.float32(r[f'prob_{p.label}']) == p.prob and r['error'] is None
    assert predict(photos, bundle, out, **shards)[:3] == (0, 0, 201)

def test_serve_run(cluster, bundle, tmp_path):
    "`serve run config.yaml` starts the folder as it is written; its answers are the command line's rows."
    app, port, model = to_ray(bundle, tmp_path/'app', name='my colours', max_wait=.02), find_free_port(), load(bundle)
    with pytest.raises(FastaiDeployError, match='is there already'): to_ray(bundle, app)
    assert to_ray(bundle, app, name='my colours', overwrite=True, max_wait=.02) == app
    (tmp_path/'else').mkdir()
    with pytest.raises(FastaiDeployError, match='is not such an application'):
        to_ray(bundle, tmp_path/'else', overwrite=True)
    config = app/'config.yaml'
    config.write_text(config.read_text(encoding='utf-8').replace('port: 8000', f'port: {port}'), encoding='utf-8')
    cmd = [sys.executable, '-m', 'ray.serve.scripts', 'run', 'config.yaml', '--non-blocking', '--address']
    r = subprocess.run([*cmd, cluster.address], cwd=app, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr[-3000:]

    def post(body, **headers):
        try: r = urlopen(Request(f'http://127.0.0.1:{port}/my-colours', body, headers), timeout=60)
        except HTTPError as e: r = e
        return r.status, r.read().decode()
    for _ in range(240):
        try: status = post(b'')[0]
        except (URLError, ConnectionError): status = 0
        if status == 400: break
        time.sleep(.5)
    try:
        for g in model.goldens():
            g.image.save(out := io.BytesIO(), 'png')
            status, said = post(out.getvalue())
            assert status == 200 and json.loads(said) == dict(path='image', **model.predict(out.getvalue()).to_dict())
            assert json.loads(said)['label'] == g.label
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n%s\r\n'
        form = b''.join(part % (i, png(i) if i != 2 else b'no image') for i in range(4)) + b'--x--\r\n'
        status, said = post(form, **{'Content-Type': 'multipart/form-data; boundary=x'})
        rows = json.loads(said)
        assert status == 200 and [o['path'] for o in rows] == list('0123')
        assert [o.get('label') for o in rows] == ['red', 'green', None, 'red'] and 'not an image' in rows[2]['error']
        assert [post(None)[0], post(b'no image')[0]] == [405, 400]
        assert post(b'--', **{'Content-Type': 'multipart/form-data; boundary=x'})[0] == 400
    finally: serve.shutdown()

def test_an_image_that_kills(cluster, bundle, tmp_path, monkeypatch):
    "The fourth process does not begin: it says which image the third one had in hand."
    from fastai_deploy.run.model import Model
    from fastai_deploy.serving import scale
    (photos := tmp_path/'photos').mkdir()
    for i in range(4): image(i).save(photos/f'{i}.png')
    jobs = []
    monkeypatch.setattr(scale, '_answered', lambda ray, job, packed, *args: jobs.append((job, packed)) or [])
    predict(photos, bundle, tmp_path/'out')
    job, packed = jobs[0]
    opened = Model.prepare_sized
    def dies(self, x, exif):
        if getattr(x, 'name', '').endswith('2.png'): raise SystemExit
        return opened(self, x, exif)
    monkeypatch.setattr(Model, 'prepare_sized', dies)
    answerer = scale._Answerer(job, ray.put(packed))
    for _ in range(3):
        with pytest.raises(SystemExit): answerer(dict(id=0))
    with pytest.raises(FastaiDeployError, match='3 processes died at .*2.png'): answerer(dict(id=0))
    monkeypatch.setattr(Model, 'prepare_sized', opened)
    predict(photos, bundle, tmp_path/'out')  # it was repaired
    answerer(dict(id=0))
    assert len(answers(tmp_path/'out')) == 4 and not list(tmp_path.glob('out/_begun*'))
