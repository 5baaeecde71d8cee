"A proof that was tampered with: every golden that says something else is found, whatever bundle.json says of hashes."
import json

import pytest

import fastai_deploy as fd
from conftest import refused, resealed
from fastai_deploy.run.write_bundle import write_bundle
from fastai_deploy.run.goldens import golden_traces
from fastai_deploy.run.loading import telling

BAD = fd.ParityError, fd.BundleError

def golden_json(bundle): return json.loads((bundle/'golden'/'golden.json').read_text(encoding='utf-8'))
def with_goldens(bundle, out, entries):
    return resealed(bundle, out, {'golden/golden.json': json.dumps(entries).encode()})

def put(path, value):
    def change(d):
        for k in path[:-1]: d = d[k]
        d[path[-1]] = value(d[path[-1]]) if callable(value) else value
    return change

def first(to): return lambda old: [to, *old[1:]]

FORGED = {
    'another label': put(['label'], 'nobody'), 'another class': put(['decided'], lambda old: [(old[0]+1) % 10]),
    'a class that is not there': put(['decided'], [99]), 'no class': put(['decided'], []),
    'a probability': put(['probs'], first(.5)), 'fewer probabilities': put(['probs'], lambda old: old[:-1]),
    'no probabilities': put(['probs'], []), 'NaN in the answer': put(['probs'], first(float('nan'))),
    'infinity in the answer': put(['probs'], first(float('inf'))), 'text in the answer': put(['probs'], first('many')),
    'a raw output': put(['stages', 'net'], first(9.)), '1e39 in the net': put(['stages', 'net'], first(1e39)),
    '1e38 in the net': put(['stages', 'net'], first(1e38)),
    'NaN in the net': put(['stages', 'net'], first(float('nan'))),
    'no raw outputs': put(['stages', 'net'], []), 'nested outputs': put(['stages', 'net'], lambda old: [old]),
    'an input of the net': put(['stages', 'batch'], first(3.)), 'no inputs': put(['stages', 'batch'], []),
    'few inputs': put(['stages', 'batch'], lambda old: old[:5]),
    'NaN inputs': put(['stages', 'batch'], first(float('nan'))),
    'more inputs': put(['stages', 'batch'], lambda old: [*old, 0.]), 'no stage': put(['stages'], {}),
    'the bytes as opened': put(['stages', 'open'], '0'*64), 'the bytes of the item': put(['stages', 'item'], '0'*64),
    'no digest': put(['stages', 'item'], None), 'another image': put(['file'], '0.png')}

@pytest.mark.parametrize('what', FORGED)
@pytest.mark.parametrize('where', [1, -1])
def test_forged(digits_bundle, tmp_path, what, where):
    "`verify` fails; and `load` does where it looks: at all numbers, and at the first stages of the last golden."
    entries = golden_json(digits_bundle)
    FORGED[what](entries[where])
    bad = with_goldens(digits_bundle, tmp_path/'bad', entries)
    with refused(BAD): fd.verify(bad)
    inside = 'a raw output', 'an input of the net', 'few inputs', 'more inputs', '1e38 in the net'   # of the graph
    answers = 'another label', 'another class', 'fewer probabilities'
    if where == -1 and what not in (*inside, *answers):
        with pytest.raises(BAD): fd.load(bad)

@pytest.mark.parametrize('what', ['another label', 'another class', 'the bytes of the item'])
def test_load_looks_at_the_answer(digits_bundle, tmp_path, what):
    "Of the golden of which the net is least sure."
    b, entries = fd.open_bundle(digits_bundle), golden_json(digits_bundle)
    file, _ = telling(b.spec, golden_traces(b))
    FORGED[what](next(d for d in entries if d['file'] == file))
    with pytest.raises(fd.ParityError): fd.load(with_goldens(digits_bundle, tmp_path/'bad', entries))

def test_sound(digits_bundle, tmp_path):
    "The same way round, nothing forged: what fails above fails for what was forged."
    bundle = with_goldens(digits_bundle, tmp_path/'same', golden_json(digits_bundle))
    parity = fd.verify(bundle)
    assert parity.ok and parity.files == ['model.onnx', 'pixels.onnx', 'weights.safetensors'] and not parity.left
    fd.load(bundle)

@pytest.mark.parametrize('engine', ['model', 'pixels'])
def test_another_graph(digits_bundle, tmp_path, engine):
    "Holes in the middle of a graph, where the weights are."
    data = (digits_bundle/f'{engine}.onnx').read_bytes()
    holed = data[:len(data)//2] + bytes(4000) + data[len(data)//2+4000:]
    bad = resealed(digits_bundle, tmp_path/'bad', {f'{engine}.onnx': holed})
    with pytest.raises(BAD): fd.verify(bad)
    with pytest.raises(BAD): fd.load(bad, engine=engine)

def test_goldens_taken_out(digits_bundle, tmp_path):
    b = fd.open_bundle(digits_bundle)
    bare = write_bundle(tmp_path/'bare', b.spec, {n: b.read(n) for n in b.spec.files if 'golden' not in n})
    with pytest.raises(fd.ParityError, match='no goldens'): fd.verify(bare)

def test_a_zeroed_tensor(digits_bundle, tmp_path):
    "The weights answer, too, for whoever builds the net again."
    st = pytest.importorskip('safetensors.torch')
    weights = st.load((digits_bundle/'weights.safetensors').read_bytes())
    weights[next(k for k in weights if k.endswith('conv1.weight'))].zero_()
    bad = resealed(digits_bundle, tmp_path/'bad', {'weights.safetensors': st.save(weights)})
    with pytest.raises(fd.ParityError, match="stage 'net'"): fd.verify(bad)

def test_another_vocab(digits_bundle, tmp_path):
    "Two classes that no golden names: pixels.onnx says otherwise."
    vocab = (digits_bundle/'vocab.txt').read_text(encoding='utf-8').splitlines()
    named = {g.label for g in fd.load(digits_bundle).goldens()}
    i, j = [i for i, o in enumerate(vocab) if o not in named][:2]
    vocab[i], vocab[j] = vocab[j], vocab[i]
    bad = resealed(digits_bundle, tmp_path/'bad', {'vocab.txt': ''.join(f'{o}\n' for o in vocab).encode()})
    with pytest.raises(fd.BundleError, match='pixels.onnx says something else about vocab'): fd.verify(bad)
