"Images of every kind: what fastai opens, `open_image` opens to the same bytes; the rest is refused with its reason."
import io, tracemalloc, warnings

import numpy as np
import pytest

pytest.importorskip('fastai.vision.core')

from inputs import BOMBS, GIANT, GROUPS, MODES, ROWS, black, card, compare, differ, interlaced, outcome, saved, turned
from PIL import Image, ImageOps

from fastai_deploy.run import image
from fastai_deploy.run.image import FORMATS, open_image
from fastai_deploy.run.basics import ImageError

@pytest.mark.filterwarnings('ignore::UserWarning:PIL')   # what it says of a cut-off TIFF
@pytest.mark.parametrize('row', ROWS, ids=lambda o: f'{o.group}: {o.name}')
def test_as_fastai(row, tmp_path):
    "No byte differs, whichever way the image is handed over, and both refuse the same."
    for mode in MODES:
        said, found = compare(row, mode, tmp_path)
        assert said and found
        allowed = {0, 'refused'} | ({'limit'} if row.ours else set())
        wrong = {k: {o: n for o, n in v.items() if o not in allowed} for k, v in found.items()}
        assert not any(wrong.values()), (mode, said, wrong)

def test_the_table_is_what_it_says():
    "Every group has rows, no name comes twice, and what should be readable is, not refused by both."
    assert len(ROWS) == len({(o.group, o.name) for o in ROWS}) and len(ROWS) > 150
    no = 'cut', 'no picture', 'bombs'
    readable = [o for o in ROWS if o.group not in no and o.name != 'YCbCr, TIFF']
    for o in readable: assert open_image(o.make()[0], formats=o.formats).mode == 'RGB', o.name
    assert GROUPS == ['modes', 'formats', 'on request', 'EXIF', 'sizes', *no]

@pytest.mark.parametrize('row', [o for o in ROWS if o.group == 'on request'], ids=lambda o: o.name)
def test_on_request(row):
    "A format that is rarely needed is refused by its name and with the way out, and opened when it is asked for."
    data, = row.make()
    with pytest.raises(ImageError, match='formats=') as e: open_image(data)
    assert row.name in str(e.value) or row.name in ('TGA', 'IM')   # which have no signature
    assert differ(open_image(data, formats=(*FORMATS, row.name)), open_image(data, formats=None)) == 0

def test_it_can_fail():
    "An image that is not as fastai's, one that only we refuse, and one that only fastai refuses, are all seen."
    im = card()
    bgr = Image.fromarray(np.asarray(im)[..., ::-1])
    assert differ(im, bgr) == outcome(bgr, im, 'RGB') > 2000 and outcome(im, im, 'RGB') == 0
    assert differ(im, im.convert('L')) == differ(im, im.crop((0, 0, 9, 9))) == im.size[0]*im.size[1]*3
    assert outcome(im, b'', 'RGB').startswith('only we refuse')
    assert outcome(OSError(), im, 'RGB').startswith('only fastai refuses')

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_interlaced_by_hand(mode):
    "The interlaced PNGs are what they should be: Pillow says so, and their pixels are those of the plain file."
    im = Image.open(io.BytesIO(interlaced(mode)))
    assert im.info['interlace'] == 1
    np.testing.assert_array_equal(im.convert('RGBA'), Image.open(io.BytesIO(saved(mode, 'png')())).convert('RGBA'))

@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WebP', 'TIFF'])
def test_exif_on_request(kind):
    "Orientation is ignored, as fastai does (a TIFF is turned by Pillow itself), and obeyed with `exif=True`."
    for o in range(1, 9):
        data = turned(kind, o)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
        assert differ(open_image(data, exif=True), upright) == 0
        assert tuple(open_image(data).size) == ((32, 48) if kind == 'TIFF' and o > 4 else (48, 32))

@pytest.mark.parametrize('kind', BOMBS)
def test_bombs_are_refused_by_the_header(kind, monkeypatch):
    "No decoder is asked for, and Python takes no memory to speak of, whatever the file's kind."
    data, asked = BOMBS[kind](*GIANT), []
    open_image(card())
    with pytest.raises(ImageError): open_image(data, formats=None)   # all plug-ins are there from now on
    decoder, convert = Image._getdecoder, image._convert
    monkeypatch.setattr(Image, '_getdecoder', lambda *a, **kw: asked.append(a) or decoder(*a, **kw))
    monkeypatch.setattr(image, '_convert', lambda *a: asked.append(a) or convert(*a))
    tracemalloc.start()
    with pytest.raises(ImageError, match='3600000000 pixels'): open_image(data, formats=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not asked and peak < 1_000_000
    open_image(turned('PNG', 1))
    assert asked                                           # and a decoder would have been seen

def test_the_limit_is_ours():
    "A whole image beyond the limit is refused, opened when the limit is raised, and without Pillow's warning."
    data = black()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(ImageError, match='8000 x 7000 is 56000000 pixels'): open_image(data)
        assert tuple(open_image(data, 'L', max_pixels=56_000_000).size) == (8000, 7000)
        with pytest.raises(ImageError, match='truncated'): open_image(BOMBS['PNG'](9500, 10_000), 'L', max_pixels=None)
        with pytest.raises(ImageError, match='smaller'): open_image(BOMBS['PNG'](50_000, 10_001), max_pixels=None)
