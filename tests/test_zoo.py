"Ten nets of ten kinds through `make zoo`'s own code; its table; and what it makes of a net that cannot."
import json, sys, time

import pytest

pytest.importorskip('fastai.vision.all')

import timm, zoo

# small ones, each put together in another way
SAMPLE = [('timm/resnet', 'test_resnet'), ('timm/convnext', 'test_convnext'), ('timm/vision_transformer', 'test_vit'),
          ('timm/efficientnet', 'test_efficientnet'), ('timm/regnet', 'regnetx_002'), ('timm/maxxvit', 'test_coatnet'),
          ('torchvision/densenet', 'densenet121'), ('torchvision/squeezenet', 'squeezenet1_1'),
          ('torchvision/alexnet', 'alexnet'), ('fastai/xresnet', 'xresnet18')]

@pytest.mark.parametrize('family, net', SAMPLE, ids=lambda o: o)
def test_sample(family, net, monkeypatch):
    from fastai_deploy.graph import to_onnx as graph
    if net in ('densenet121', 'xresnet18'):    # large graphs: the older exporter writes them in a fifth of the time
        monkeypatch.setattr(graph, 'EXPORTERS', dict(torchscript=graph.EXPORTERS['torchscript']))
    row = zoo.run_net(family, net)
    assert row['result'] == 'rebuilt', row
    assert row['parity'] <= 1e-4 and row['exporter'] in graph.EXPORTERS and row['cause'] is None
    assert list(row) == zoo.COLUMNS

# --- the table

def test_table():
    "Every row has the tool's columns, and says what must be said."
    rows = zoo.read_table()['rows']
    assert all(list(o) == zoo.COLUMNS for o in rows)
    assert [(o['family'], o['net']) for o in rows] == sorted({(o['family'], o['net']) for o in rows})
    for o in rows:
        assert o['result'] in zoo.RESULTS, o
        if o['result'] in ('rebuilt', 'opaque'): assert o['parity'] <= zoo.TOLERANCE and o['exporter'], o
        assert (o['cause'] is None) == (o['result'] == 'rebuilt'), o

def test_table_is_complete():
    "Every family of the timm that made it is there, and every function that fastai has settings for."
    from fastai.vision.learner import model_meta
    table = zoo.read_table()
    have, nets = {o['family'] for o in table['rows']}, {o['net'] for o in table['rows']}
    if table['made_by']['timm'] == timm.__version__: assert {f'timm/{o}' for o in timm.list_modules()} <= have
    assert {f.__name__ for f in model_meta} <= nets

# --- what goes wrong is a row

def test_fastai_cannot():
    assert zoo.run_net('timm/resnet', 'no_such_net')['result'] == 'fastai'
    row = zoo.run_net('timm/mambaout', 'test_mambaout')
    assert row['result'] == 'fastai' and 'channels last' in row['cause'] and row['exporter'] is None

def test_failed(monkeypatch):
    def refuse(*args): raise ValueError('no graph\nfor you')
    monkeypatch.setattr('fastai_deploy.graph.export_onnx.export_onnx', refuse)
    row = zoo.run_net('timm/resnet', 'test_resnet')
    assert (row['result'], row['cause']) == ('failed', 'ValueError: no graph for you')

def test_parity_counts(monkeypatch):
    "Answers that differ are no success."
    real = zoo.live
    monkeypatch.setattr(zoo, 'live', lambda learn, x: real(learn, x)*1.001)
    row = zoo.run_net('timm/resnet', 'test_resnet')
    assert row['result'] == 'failed' and "ONNX Runtime's answers differ by 1.0e-03" in row['cause'], row

def test_opaque(monkeypatch):
    "A net that is not rebuilt is exported as it is, and the row says why."
    monkeypatch.setattr('fastai_deploy.nets.describe.describe_head', lambda head: [dict(layer='Identity')])
    row = zoo.run_net('timm/resnet', 'test_resnet')
    assert row['result'] == 'opaque' and 'unexpected' in row['cause'] and row['parity'] <= 1e-4

FAKE = """
import json, sys, time
for line in sys.stdin:
    family, net = json.loads(line)
    if net == 'crash': sys.exit(3)
    if net == 'sleep': time.sleep(60)
    row = dict.fromkeys({columns!r}) | dict(family=family, net=net, result='rebuilt', seconds=0.)
    print(json.dumps(row), flush=True)
"""

def test_worker(tmp_path, capsys):
    "A crash and a net that takes too long are one row each; the run goes on, and can be taken up again."
    run = zoo.Worker([sys.executable, '-c', FAKE.format(columns=zoo.COLUMNS)])
    path, todo, t = tmp_path/'zoo.json', [('a', 'one'), ('b', 'crash'), ('c', 'sleep'), ('d', 'two')], time.time()
    rows = zoo.zoo(todo, run, path, limit=10)
    assert [o['result'] for o in rows] == ['rebuilt', 'failed', 'failed', 'rebuilt'] and time.time() - t < 50
    assert 'exit code 3' in rows[1]['cause'] and 'longer than 10 s' in rows[2]['cause']
    assert zoo.read_table(path)['rows'] == rows == json.loads(path.read_text(encoding='utf-8'))['rows']
    capsys.readouterr()
    more = zoo.zoo(todo + [('e', 'three')], run, path, limit=10, keep=rows)
    run.stop()
    assert len(more) == 5 and capsys.readouterr().out.startswith('1/1 e')
