"""Images of every kind that a model may be handed, made on the spot, and `open_image` held against fastai on them.

test_inputs.py asserts what `compare` finds, and nbs/50_inputs.ipynb prints it."""
import io, struct, warnings, zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from attack.images import card as gradient, chunk, giant_png, giant_tiff, save, tiff
from fastai.vision.core import PILImage, PILImageBW
from PIL import Image

from fastai_deploy.run.image import FORMATS, open_image
from fastai_deploy.run.basics import ImageError

class PILImageA(PILImage):
    "An image with transparency: fastai has no class for it, its users write this one."
    _open_args = {'mode': 'RGBA'}

MODES = dict(RGB=PILImage, L=PILImageBW, RGBA=PILImageA) # mode of a Learner's images -> the class that opens them
SOURCES = 'path', 'bytes', 'file', 'PIL', 'array'

# --- images

def card(w=48, h=32):
    "A colourful gradient with noise in one half: no two neighbours alike there."
    return gradient('RGB', w, h)

def in_mode(mode, w=48, h=32):
    "The card in any of Pillow's modes, its transparency a gradient too."
    im, ramp = card(w, h), Image.linear_gradient('L').resize((w, h))
    if mode in ('LA', 'RGBA'):
        im = im.convert(mode)
        im.putalpha(ramp)
    elif mode == 'F': im = Image.fromarray(np.asarray(im.convert('L')).astype(np.float32)*1.1 - 9)
    else: im = gradient(mode, w, h)
    assert im.mode == mode
    return im

def saved(mode, kind, **kw): return lambda: save(in_mode(mode), kind, **kw)

def film(kind, mode='RGB', **kw):
    "An animation: the card, then two other frames."
    im = in_mode(mode)
    return save(im, kind, save_all=True, append_images=[im.rotate(o) for o in (90, 180)], duration=40, **kw)

ADAM7 = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)  # x, y, dx, dy

def png(a, colour, bits=8, interlaced=True, palette=None):
    "A PNG from array [h,w] or [h,w,c], written by hand: Pillow writes neither interlaced nor 16-bit colour ones."
    def row(o): return (np.packbits(o > 0) if bits == 1 else o.astype(f'>u{bits//8}')).tobytes()
    passes = [a[y::dy, x::dx] for x, y, dx, dy in (ADAM7 if interlaced else [(0, 0, 1, 1)])]
    pixels = b''.join(b'\0' + row(o) for p in passes if p.size for o in p)
    head = struct.pack('>IIBBBBB', a.shape[1], a.shape[0], bits, colour, 0, 0, interlaced)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + (chunk(b'PLTE', palette) if palette else b'')
            + chunk(b'IDAT', zlib.compress(pixels)) + chunk(b'IEND', b''))

def interlaced(mode, w=48, h=32):
    "The card as an interlaced PNG of `mode`, or of 'RGB;16'."
    if mode == 'RGB;16':
        im = card(w, h)
        return png(np.asarray(im).astype(np.uint16)*256 + np.arange(w)[:, None]%256, 2, 16)
    im, colour = in_mode(mode, w, h), dict(RGB=2, P=3, LA=4, RGBA=6).get(mode, 0)
    palette = bytes(im.getpalette()) if mode == 'P' else None
    return png(np.asarray(im), colour, {'1': 1, 'I;16': 16}.get(mode, 8), palette=palette)

def turned(kind, o):
    exif = Image.Exif()
    exif[0x112] = o
    return save(card(), kind, exif=exif)

# --- what is no image, and what claims to be a giant

def patched(kind, at, fmt, w, h):
    "The card as a file with `w` and `h` written over the bytes at `at`."
    b = bytearray(save(card(), kind))
    at = b.index(at) + len(at) if isinstance(at, bytes) else at
    struct.pack_into(fmt, b, at, w, h)
    return bytes(b)

def patched_webp(w, h):
    "A WebP whose canvas is said to be `w` x `h`."
    b = bytearray(film('webp'))
    at = b.index(b'VP8X') + 12
    b[at:at+6] = (w - 1).to_bytes(3, 'little') + (h - 1).to_bytes(3, 'little')
    return bytes(b)

def icon(w, h):
    "A Windows icon said to be 48 x 48, whose one image is a PNG that says `w` x `h`."
    pic = giant_png(w, h)
    return struct.pack('<3H4B2H2I', 0, 1, 1, 48, 48, 0, 0, 1, 32, len(pic), 22) + pic

def mac_icon(w, h):
    "A Mac icon said to be 128 x 128, whose one image is a PNG that says `w` x `h`."
    pic = giant_png(w, h)
    return b'icns' + struct.pack('>I', 16 + len(pic)) + b'ic07' + struct.pack('>I', 8 + len(pic)) + pic

def tiled(w, h):
    "A TIFF of 48 x 32 grey pixels, said to be cut out of one tile of `w` x `h`."
    data = zlib.compress(bytes(48*32))
    tags = {256: 48, 257: 32, 258: 8, 259: 8, 262: 1, 277: 1, 322: w, 323: h, 324: 8, 325: len(data)}
    return tiff({k: (4, 1, v) for k, v in tags.items()}, data)

NOISE = np.random.default_rng(1).bytes(3000)
GIANT = 60_000, 60_000

# --- the table

@dataclass
class Row:
    "One line of the table: some inputs of a kind."
    group: str
    name: str
    make: Callable          # () -> a list of inputs: bytes of a file, a PIL image, or a path
    ours: bool = False      # our limit refuses it, whatever fastai does
    formats: tuple | None = FORMATS  # what `open_image` is asked to open

ASKED = [o for o in ('AVIF', 'DDS', 'DIB', 'ICNS', 'ICO', 'IM', 'JPEG2000', 'PCX', 'QOI', 'SGI', 'TGA')
         if (Image.init() or o in Image.SAVE) and o in Image.OPEN]

def _rows():
    one = lambda group, name, f, **kw: Row(group, name, lambda: [f()], **kw)
    for m in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16', 'F'):
        yield one('modes', f'{m}, in memory', lambda m=m: in_mode(m))
    kinds = dict(PNG='1 L LA P RGB RGBA I;16', TIFF='1 L LA P PA RGB RGBA CMYK YCbCr I;16 F', GIF='1 L P RGB RGBA',
                 JPEG='L RGB CMYK YCbCr', WebP='L RGB RGBA', BMP='1 L P RGB RGBA')
    for kind, modes in kinds.items():
        for m in modes.split(): yield one('modes', f'{m}, {kind}', saved(m, kind))
    yield one('modes', 'P with transparency, PNG', saved('P', 'png', transparency=bytes(range(256))))
    yield one('modes', 'RGB with transparency, PNG', saved('RGB', 'png', transparency=(0, 0, 255)))
    yield one('modes', 'P with transparency, GIF', saved('P', 'gif', transparency=3))
    for way, progressive in (('baseline', False), ('progressive', True)):
        for i, sub in enumerate(('4:4:4', '4:2:2', '4:2:0')):
            yield one('formats', f'JPEG, {way}, {sub}', saved('RGB', 'jpeg', progressive=progressive, subsampling=i))
        yield one('formats', f'JPEG, {way}, grey', saved('L', 'jpeg', progressive=progressive))
    for m in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16', 'RGB;16'):
        yield one('formats', f'PNG, interlaced, {m}', lambda m=m: interlaced(m))
    for o in ('raw', 'packbits', 'tiff_lzw', 'tiff_adobe_deflate', 'jpeg'):
        yield one('formats', f'TIFF, {o}', saved('RGB', 'tiff', compression=o))
    for m in ('1', 'L', 'RGB', 'I;16'): yield one('formats', f'PPM, {m}', saved(m, 'ppm'))
    for name, f in FORMAT.items(): yield one('formats', name, f)
    for kind in ASKED: yield one('on request', kind, saved('RGB', kind), formats=None)
    for kind in ('JPEG', 'PNG', 'WebP', 'TIFF'):
        for o in range(1, 9): yield one('EXIF', f'{kind}, orientation {o}', lambda kind=kind, o=o: turned(kind, o))
    for w, h in ((1, 1), (1, 2), (2, 1), (3, 5), (7, 8), (1, 4000), (4000, 1), (640, 480)):
        for k in ('PNG', 'JPEG'): yield one('sizes', f'{k}, {w} x {h}', lambda k=k, w=w, h=h: save(card(w, h), k))
        yield one('sizes', f'PNG, interlaced, {w} x {h}', lambda w=w, h=h: interlaced('RGB', w, h))
    yield one('sizes', 'JPEG, 6000 x 4000', lambda: save(card(600, 400).resize((6000, 4000)), 'jpeg'))
    for name, f in dict(CUT).items():
        yield Row('cut', f'{name}, cut at 64 places', lambda f=f: cuts(f()))
    yield from _refused(one)

CUT = [('JPEG', saved('RGB', 'jpeg')), ('JPEG, progressive', saved('RGB', 'jpeg', progressive=True)),
       ('JPEG, grey', saved('L', 'jpeg')), ('PNG', saved('RGB', 'png')), ('PNG, interlaced', lambda: interlaced('RGB')),
       ('GIF', saved('P', 'gif')), ('GIF, animated', lambda: film('gif')), ('WebP', saved('RGB', 'webp')),
       ('WebP, animated', lambda: film('webp')), ('BMP', saved('RGB', 'bmp')), ('TIFF', saved('RGB', 'tiff')),
       ('TIFF, tiff_lzw', saved('RGB', 'tiff', compression='tiff_lzw'))]

FORMAT = {'JPEG, quality 1': saved('RGB', 'jpeg', quality=1), 'GIF, interlaced': saved('P', 'gif', interlace=True),
          'WebP': saved('RGB', 'webp'), 'WebP, lossless, transparent': saved('RGBA', 'webp', lossless=True),
          'TIFF, group4': saved('1', 'tiff', compression='group4'), 'TIFF, three pages': lambda: film('tiff'),
          'GIF, animated': lambda: film('gif'), 'GIF, animated, transparent': lambda: film('gif', 'RGBA', disposal=2),
          'WebP, animated': lambda: film('webp'), 'PNG, animated': lambda: film('png'),
          'WebP, animated, transparent': lambda: film('webp', 'RGBA', lossless=True),
          'MPO, two images': lambda: film('mpo')}

def cuts(data):
    "`data` cut off at 48 places evenly, and at each of its last 16 bytes."
    return [data[:len(data)*i//48] for i in range(48)] + [data[:-i] for i in range(16, 0, -1)]

NO_PICTURE = {
    'empty': b'', 'one byte': b'\xff', 'zeros': bytes(3000), 'noise': NOISE, 'no such file': Path('nowhere')/'cat.jpg',
    'a folder': Path('.'), 'a web page': b'<!doctype html><html><body>404</body></html>',
    'an SVG': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'}
MAGIC = dict(JPEG=b'\xff\xd8\xff\xe0', PNG=b'\x89PNG\r\n\x1a\n', GIF=b'GIF89a', BMP=b'BM', TIFF=b'II*\0',
             WebP=b'RIFF\xb0\x0b\0\0WEBPVP8 ')
NO_PICTURE |= {f'{k} in its first bytes, then noise': magic + NOISE for k, magic in MAGIC.items()}

def _refused(one):
    for name, o in NO_PICTURE.items(): yield one('no picture', name, lambda o=o: o)
    for name, f in BOMBS.items(): yield Row('bombs', f'{name}, 60000 x 60000', lambda f=f: [f(*GIANT)], True, None)
    yield one('bombs', 'PNG, 7100 x 7100', lambda: giant_png(7100, 7100), ours=True)
    yield one('bombs', 'PNG, 8000 x 7000, whole, all black', black, ours=True)

def black(): return save(Image.new('1', (8000, 7000)), 'png')

BOMBS = {'PNG': giant_png, 'GIF': lambda w, h: patched('gif', 6, '<HH', w, h),
         'JPEG': lambda w, h: patched('jpeg', b'\xff\xc0\0\x11\x08', '>HH', h, w),
         'BMP': lambda w, h: patched('bmp', 18, '<ii', w, h), 'TIFF': giant_tiff, 'WebP': patched_webp,
         'icon with a PNG': icon, 'Mac icon with a PNG': mac_icon, 'TIFF with a tile': tiled}

ROWS = list(_rows())
GROUPS = list(dict.fromkeys(o.group for o in ROWS))

# --- the comparison

def fastai_opens(x, mode):
    "fastai's image from path `x`, or its exception. For a PIL image: what the same route makes of it."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')    # Pillow's, about palettes and sizes
        try: return x.convert(mode) if isinstance(x, Image.Image) else MODES[mode].create(x)
        except Exception as e: return e.with_traceback(None)   # which would keep the file open

def given(x, want, path):
    "(source, value) for each way to hand over input `x`; its bytes are in the file at `path`."
    if isinstance(x, Path): return [('path', x)]
    if isinstance(x, Image.Image): return [('PIL', x)]
    res = [('path', path), ('bytes', x), ('file', open(path, 'rb'))]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: res.append(('PIL', Image.open(io.BytesIO(x))))
        except Exception: pass             # nobody has such a PIL image
    return res + ([] if isinstance(want, Exception) else [('array', np.asarray(want))])

def differ(a, b):
    "Number of bytes in which two images differ: all of them if they are of another size or mode."
    if (a.mode, tuple(a.size)) != (b.mode, tuple(b.size)): return a.size[0]*a.size[1]*len(a.getbands())
    return int((np.asarray(a) != np.asarray(b)).sum())

def outcome(want, x, mode, formats=FORMATS):
    "Bytes that differ from fastai's image `want`, 'refused' (by both), 'limit' (by us alone), or what went wrong."
    try: got = open_image(x, mode, formats=formats)
    except ImageError as e:
        if '\n' in str(e) or ': ' not in str(e): return f'no reason in one line: {e!r}'
        if 'max_pixels' in str(e) and not isinstance(want, Exception): return 'limit'
        return 'refused' if isinstance(want, Exception) else f'only we refuse: {e}'
    return f'only fastai refuses: {want!r}' if isinstance(want, Exception) else differ(got, want)

def compare(row, mode, folder):
    "(what fastai says of each input of `row`, source -> Counter of outcomes)."
    said, found = [], {}
    for i, x in enumerate(row.make()):
        path = Path(folder)/f'{mode}{i}'
        if isinstance(x, bytes): path.write_bytes(x)
        want = fastai_opens(path if isinstance(x, bytes) else x, mode)
        said.append(type(want).__name__ if isinstance(want, Exception) else f'{want.size[0]} x {want.size[1]}')
        for source, o in given(x, want, path):
            found.setdefault(source, Counter())[outcome(want, o, mode, row.formats)] += 1
            if source == 'file': o.close()
    return said, found
