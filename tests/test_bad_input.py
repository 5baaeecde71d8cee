"Each kind of bad input is refused with its reason, and the next call answers as before."
import io, zlib

import numpy as np
import pytest
from PIL import Image

import fastai_deploy as fd


def jpeg(size=(40, 30)):
    out = io.BytesIO()
    Image.effect_noise(size, 90).convert('RGB').save(out, 'jpeg')
    return out.getvalue()


def png_header(width, height):
    "A PNG of one grey pixel that says it is much larger."
    out = io.BytesIO()
    Image.new('L', (1, 1)).save(out, 'png')
    data = bytearray(out.getvalue())
    data[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, 'big')
    return bytes(data)


BAD = {
    'garbage': (b'\x00\x01garbage'*99, 'not a picture'), 'empty': (b'', 'empty'),
    'truncated': (jpeg((200, 200))[:2000], 'truncated'), 'no such file': ('nowhere/cat.jpg', 'no such file'),
    'folder': ('.', 'a directory'), 'nothing': (None, 'not a path'), 'number': (3, 'not a path'),
    'floats': (np.zeros((9, 9, 3), np.float32), 'float32'), 'channels first': (np.zeros((3, 9, 9), np.uint8), 'shape'),
    'bomb': (png_header(60_000, 60_000), 'max_pixels'), 'text file': (io.StringIO('text'), 'text'),
}


@pytest.fixture(scope='module')
def model(digits_bundle): return fd.load(digits_bundle)


@pytest.mark.parametrize('kind', BAD)
def test_refused(kind, model):
    bad, reason = BAD[kind]
    good = jpeg()
    before = model.predict(good)
    with pytest.raises(fd.ImageError, match=reason) as e: model.predict(bad)
    assert '\n' not in str(e.value)
    after = model.predict(good)
    np.testing.assert_array_equal(before.probs, after.probs)


def test_batch(model):
    good, bad = jpeg(), [b for b, _ in BAD.values()]
    answers = model.predict_batch([good, *bad, good], batch_size=4, progress=False)
    assert [isinstance(a, fd.ImageError) for a in answers] == [False, *[True]*len(bad), False]
    assert answers[0].label == answers[-1].label == model.predict(good).label
