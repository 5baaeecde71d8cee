"Each kind of bad input is refused with its reason, and the next call answers as before."
import io, struct, time

import numpy as np
import pytest
from attack.images import chunk, giant_png, save, tiff
from conftest import refused
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.run.image import MAX_PIXELS, open_image

def jpeg(size=(40, 30)): return save(Image.effect_noise(size, 90).convert('RGB'), 'jpeg')

def scans(n):
    "A progressive JPEG of `n` scans."
    *rest, last = save(Image.new('RGB', (2000, 2000)), 'jpeg', progressive=True)[:-2].split(b'\xff\xda')
    return b'\xff\xda'.join([*rest, *[last]*(n - len(rest) + 1)]) + b'\xff\xd9'

def shared_tags(n=20_000):
    "A TIFF of `n` tags at one place of 100 KB: 2 GB in Pillow's memory."
    return tiff({700 + i: (7, 100_000, 8) for i in range(n)}, bytes(100_000))

def runs():
    "A BMP of 50 million pixels in one row, run lengths that say 255 rows of nothing: 12 GB in Pillow's memory."
    head = struct.pack('<IiiHHIIiiII', 40, 50_000_000, 1, 1, 8, 1, 4, 0, 0, 2, 0)
    return b'BM' + struct.pack('<IHHI', 66, 0, 0, 62) + head + bytes(8) + b'\0\2\0\xff'

def chunks(n=600_000):
    "A PNG with `n` empty chunks in it."
    data = save(Image.new('L', (9, 9)), 'png')
    return data[:33] + chunk(b'prVt', b'')*n + data[33:]

def saved(kind): return save(Image.new('RGB', (48, 32)), kind)

BAD = {
    'garbage': (b'\x00\x01garbage'*99, 'not an image'), 'empty': (b'', 'empty'),
    'truncated': (jpeg((200, 200))[:2000], 'truncated'), 'no such file': ('nowhere/cat.jpg', 'no such file'),
    'folder': ('.', 'a directory'), 'nothing': (None, 'not a path'), 'number': (3, 'not a path'),
    'floats': (np.zeros((9, 9, 3), np.float32), 'float32'), 'channels first': (np.zeros((3, 9, 9), np.uint8), 'shape'),
    'bomb': (giant_png(60_000, 60_000), 'max_pixels'), 'text file': (io.StringIO('text'), 'text'),
    'scans': (scans(4000), 'than 100 scans'), 'scans, lazily': (Image.open(io.BytesIO(scans(4000))), 'than 100'),
    'shared tags': (shared_tags(), 'tags of'), 'run lengths': (runs(), 'run lengths'),
    'chunks': (chunks(), 'small pieces'),
    'comments': (b'P2 9 9 255\n' + b'#\n'*500_000, 'comments'), 'icon': (saved('ICO'), "ICO.*formats="),
    'JPEG2000': (saved('JPEG2000'), "JPEG2000.*formats="), 'Targa': (saved('TGA'), 'formats=None')}

@pytest.fixture(scope='module')
def model(digits_bundle): return fd.load(digits_bundle)

@pytest.mark.parametrize('kind', BAD)
def test_refused(kind, model):
    bad, reason = BAD[kind]
    good = jpeg()
    before = model.predict(good)
    with refused(fd.ImageError, reason): model.predict(bad)
    np.testing.assert_array_equal(before.probs, model.predict(good).probs)

def test_batch(model):
    good, bad = jpeg(), [b for b, _ in BAD.values()]
    answers = model.predict_batch([good, *bad, good], batch_size=4, progress=False)
    assert [isinstance(a, fd.ImageError) for a in answers] == [False, *[True]*len(bad), False]
    assert answers[0].label == answers[-1].label == model.predict(good).label

@pytest.mark.parametrize('kind', ['scans', 'shared tags', 'run lengths', 'chunks', 'comments'])
def test_at_once(kind):
    "What would take long is refused before it does."
    start = time.process_time()
    with pytest.raises(fd.ImageError): open_image(BAD[kind][0])
    assert time.process_time() - start < 1

def test_real_photos_pass():
    "Progressive JPEGs, a TIFF in strips and a large PNG are as before."
    im = Image.effect_noise((3000, 1000), 90).convert('RGB')
    for kind, kw in (('jpeg', dict(progressive=True)), ('mpo', {}), ('tiff', {}), ('png', {}), ('ppm', {})):
        data = save(im, kind, **kw)
        np.testing.assert_array_equal(open_image(data), Image.open(io.BytesIO(data)).convert('RGB'))

@pytest.mark.parametrize('kw', [dict(max_pixels=0), dict(max_pixels=MAX_PIXELS + 1), dict(max_pixels=1e6),
                                dict(formats=('JPG',)), dict(formats=('EPS',))])
def test_wrong_limits(kw):
    with refused(fd.UnsupportedError, next(iter(kw))): open_image(jpeg(), **kw)
