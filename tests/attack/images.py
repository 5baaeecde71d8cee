"""Images made to break `open_image`: what is not refused must be what Pillow itself makes of the file.

`cases` yields (class, case), `attack` runs one of them in this process."""
import io, random, struct, warnings, zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from fastai_deploy.run.image import FORMATS, open_image
from fastai_deploy.run.basics import ImageError

MAX = 50_000_000
FAX = 'group3', 'group4', 'tiff_ccitt'     # of damaged ones libtiff leaves memory as it was: no two times alike
CHEAP = 2_000_000       # pixels up to which an opened image is compared with Pillow's

# --- sound files

def card(mode='RGB', w=48, h=32):
    "A gradient with noise in one half, in any mode."
    y, x = np.mgrid[:h, :w]
    a = np.stack([x*255//w, y*255//h, 255 - x*255//w], -1)
    noise = np.random.default_rng(0).integers(0, 256, a.shape)
    im = Image.fromarray(np.where((x < w//2)[..., None], a, noise).astype(np.uint8))
    if mode == 'I;16': return Image.fromarray(np.asarray(im.convert('L')).astype(np.uint16)*257)
    return im.convert('P').convert(mode) if mode == 'PA' else im.convert(mode)

def save(im, kind, **kw):
    f = io.BytesIO()
    im.save(f, kind, **kw)
    return f.getvalue()

FILMS = dict(save_all=True, append_images=[card(), card('L')])
SAVED = [('JPEG', dict(progressive=True)), ('JPEG', dict(progressive=True, subsampling=0)), ('JPEG', dict(quality=3)),
         ('PNG', {}), ('GIF', dict(interlace=True)), ('WEBP', dict(lossless=True)), ('WEBP', dict(quality=30)),
         ('BMP', {}), ('PPM', {}), *[(o, FILMS) for o in ('MPO', 'GIF', 'PNG', 'WEBP', 'TIFF')],
         *[('TIFF', dict(compression=o)) for o in ('raw', 'packbits', 'tiff_lzw', 'tiff_deflate', 'jpeg', 'group4')]]
OTHERS = [(o, {}) for o in ('AVIF', 'BLP', 'DDS', 'DIB', 'ICNS', 'ICO', 'IM', 'JPEG2000', 'MSP', 'PCX', 'QOI', 'SGI',
                            'SPIDER', 'TGA', 'XBM')]
MODES = '1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16', 'I', 'F', 'LAB'
TIFFS = dict(jpeg=('L', 'RGB', 'CMYK'), group4=('1',))   # libtiff dies of other modes, in writing

def sound(kinds):
    "(format, bytes) of the card in each format and mode that Pillow writes, some of them with an EXIF block."
    exif = Image.Exif()
    exif.update({274: 6, 271: 'maker', 282: 72.0})
    for kind, kw in kinds:
        for mode in TIFFS.get(kw.get('compression'), MODES):
            for more in ({}, {'exif': exif}) if kind in ('JPEG', 'PNG', 'WEBP', 'TIFF', 'MPO') else ({},):
                try: yield kind, save(card(mode), kind, **kw, **more)
                except Exception: pass                          # not in this mode, or not in this build of Pillow

# --- mutations

NASTY = 0, 1, 2, 3, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff

def mutated(rng, b, other):
    "`b` with bits turned, numbers replaced, bytes cut, doubled, or taken from `other`."
    b = bytearray(b)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        if not b: break
        at = rng.randrange(min(len(b), rng.choice((64, 400, len(b)))))
        way = rng.randrange(7)
        if way == 0: b[at] ^= 1 << rng.randrange(8)
        elif way == 1: b[at] = rng.randrange(256)
        elif way == 2: b[at:at+4] = struct.pack(rng.choice('<>') + 'I', rng.choice(NASTY))
        elif way == 3: b[at:at+2] = struct.pack(rng.choice('<>') + 'H', rng.choice(NASTY) & 0xffff)
        elif way == 4: del b[at:at + rng.choice((1, 4, 50, len(b)))]
        elif way == 5: b[at:at] = b[at:at + rng.randrange(1, 200)]
        else: b[at:at + rng.randrange(1, 100)] = other[at:at + rng.randrange(1, 100)]
    return mended(bytes(b)) if rng.random() < .5 else bytes(b)

def mended(b):
    "A PNG with its checksums made right, so that what is behind them is reached; other files as they are."
    out, at = b[:8], 8
    if not b.startswith(b'\x89PNG'): return b
    while at + 12 <= len(b):
        n = min(int.from_bytes(b[at:at+4], 'big'), len(b) - at - 12)
        out += b[at:at+8+n] + struct.pack('>I', zlib.crc32(b[at+4:at+8+n]))
        at += 12 + n
    return out + b[at:]

# --- each kind of file that is long, deep or giant

def scans(rng):
    "A JPEG of some size whose last scan comes again and again."
    im = Image.new(rng.choice(('RGB', 'L', 'CMYK')), rng.choice(((64, 64), (1000, 800), (3000, 2000))), 99)
    if im.size == (64, 64): im = card(im.mode, 64, 64)
    *rest, last = save(im, 'JPEG', progressive=True, subsampling=rng.choice((0, 2)))[:-2].split(b'\xff\xda')
    n = rng.choice((0, 50, 90, 110, 1000, 8000, 60_000))
    pad = rng.choice((b'', b'\xff', b'\xff\xd0', b'\xff\xfe\0\2'))
    b = b'\xff\xda'.join([*rest, *[last + pad]*(min(n, 4_000_000//len(last)) + 1)]) + b'\xff\xd9'
    if rng.random() < .5:
        at = b.index(b'\xff\xc2') + 5
        h, w = rng.choice(((7000, 7100), (65500, 760), (760, 65500), (1, 65500), (5000, 5000)))
        b = b[:at] + struct.pack('>HH', h, w) + b[at+4:]
    return b

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def blocks(data, n=255):
    "`data` as a GIF has it: in blocks of `n`, each behind its length."
    return b''.join(bytes([len(data[i:i+n])]) + data[i:i+n] for i in range(0, len(data), n)) + b'\0'

def floods(rng):
    "A small image with very many small parts in it, or a few large ones."
    n, at = rng.choice((10, 3000, 200_000, 1_000_000)), rng.choice((0, 1))
    kind = rng.choice(('PNG', 'JPEG', 'GIF', 'PPM', 'BMP', 'WEBP', 'text'))
    b = save(card(), kind) if kind not in ('BMP', 'text') else b''
    if kind == 'PNG':
        large, small = zlib.compress(bytes(10**7)), zlib.compress(bytes(900_000))
        name, data = rng.choice((
            (b'tEXt', b'k\0v'), (b'tEXt', b'k\0' + bytes(50)), (b'prVt', b'x'), (b'zTXt', b'k\0\0' + small),
            (b'iCCP', b'k\0\0' + large), (b'IDAT', b''), (b'fcTL', bytes(26)), (b'eXIf', b'II*\0' + bytes(20)),
            (b'acTL', b'\xff'*8), (b'iTXt', b'k\0\1\0\0\0' + small)))
        at = 33 if at else b.index(b'IEND') - 4
        return b[:at] + chunk(name, data)*min(n, 8_000_000//(len(data) + 12)) + b[at:]
    if kind == 'JPEG':
        part = rng.choice((b'\xff', b'\0', b'\xff\0', b'\xff\xfe\0\2', b'\xff\xe2\0\7abcde', b'\xff\xd8',
                           b'\xff\xdd\0\4\0\0', b'\xff\xe1\xff\xff' + b'Exif\0\0' + bytes(65527),
                           b'\xff\xed\0\x20' + b'Photoshop 3.0\0' + b'8BIM'*4))
        where = rng.choice((2, b.index(b'\xff\xda'), len(b) - 2))
        return b[:where] + part*min(n, 8_000_000//len(part)) + b[where:]
    if kind == 'GIF':
        ext = rng.choice((b'!\xfe' + blocks(b'x'*n), b'!\xfe' + blocks(b'x'*n, 1), b'!\xff' + blocks(b'x'*n),
                          b'!\xf9\4\1\0\0\0\0'*(n//8), b'\0'*n, b'!\xfe\1x\0'*(n//5)))
        where = 13 + 3*2**((b[10] & 7) + 1)
        return b[:where] + ext + b[where:]
    if kind == 'WEBP':
        b = save(card(), 'WEBP', exif=b'Exif\0\0II*\0')
        b += (b'JUNK' + struct.pack('<I', 2) + b'xx')*min(n, 800_000)
        return b[:4] + struct.pack('<I', len(b) - 8) + b[8:]
    if kind == 'PPM': return rng.choice((b'P6 ' + b'#'*n + b'\n', b'P6' + b' '*n, b'P6' + b'#\n'*n)) + b[3:]
    if kind == 'text':
        w, h = rng.choice(((9, 9), (1000, 1000), (7000, 7000)))
        token = rng.choice((b'#\n', b'1 ', b'#', b' ', b'255 ', b'1'))
        head = b'%s %d %d 255\n' % (rng.choice((b'P1', b'P2', b'P3')), w, h)
        return head + token*min(n, 8_000_000//len(token))
    w, h = rng.choice(((3000, 3000), (50_000, 1), (50_000_000, 1), (1, 50_000_000), (7000, 7000), (300, 200)))
    runs = rng.choice((b'\0\2\0\xff', b'\0\0', b'\1\1\0\0', b'\xff\1', b'\0\2\xff\0', b'\0\5abcde\0'))*(n//2)
    bits, how = rng.choice(((8, 1), (4, 2)))
    head = struct.pack('<IiiHHIIiiII', 40, w, h, 1, bits, how, len(runs), 0, 0, 2**bits, 0)
    return struct.pack('<2sIHHI', b'BM', 1078, 0, 0, 54 + 4*2**bits) + head + bytes(4*2**bits) + runs

def tiff(tags, data, order='<', big=False, loops=False):
    "A TIFF of `tags` {tag: (type, count, place or value)}, with `data` from byte 8 or 16 on; its end may lead back."
    place, at = 'Q' if big else 'I', (16 if big else 8) + len(data)
    def entry(tag, kind, count, value):
        short = kind == 3 and count == 1
        value = struct.pack(order + ('H' if short else place), value & 0xffff if short else value)
        return struct.pack(order + 'HH' + place, tag, kind, count) + value.ljust(8 if big else 4, b'\0')
    entries = b''.join(entry(k, *v) for k, v in sorted(tags.items()))
    head = {'<': b'II', '>': b'MM'}[order] + struct.pack(order + 'H', 43 if big else 42)
    head += struct.pack(order + 'HHQ', 8, 0, at) if big else struct.pack(order + 'I', at)
    n = struct.pack(order + ('Q' if big else 'H'), len(tags))
    return head + data + n + entries + struct.pack(order + place, at if loops else 0)

def tags(rng):
    "A TIFF whose tags are giant, shared, looped, or of very many strips and tiles."
    order, big, w, h = rng.choice('<>'), rng.random() < .2, rng.choice((48, 48, 7000)), rng.choice((32, 32, 7000))
    at, how = (16 if big else 8), rng.choice((1, 1, 1, 8, 8, 5, 32773, 7, 6, 50000))
    data = zlib.compress(bytes(w*h)) if how == 8 else rng.choice((bytes(w*h), bytes(2_000_000), rng.randbytes(3000)))
    res = {256: (4, 1, w), 257: (4, 1, h), 258: (3, 1, 8), 259: (3, 1, how), 262: (3, 1, rng.choice((1, 1, 1, 3, 6))),
           277: (3, 1, 1), 278: (4, 1, rng.choice((1, h, h, h, 2**31, 0))), 273: (4, 1, at), 279: (4, 1, len(data))}
    way = rng.randrange(6)
    if way == 0:
        last = 40_000 + rng.choice((9, 20_000))
        res |= {k: (rng.choice((1, 2, 5, 7, 12, 16)), len(data)//16, at) for k in range(40_000, last)}
    if way == 1: res |= {o: (rng.choice((3, 4)), rng.choice((2, 40_000, len(data)//4)), at) for o in (273, 279)}
    if way == 2:
        res |= {322: (4, 1, rng.choice((1, 16, 7000, 2**20))), 323: (4, 1, rng.choice((1, 16, 7000, 2**20))),
                324: (4, rng.choice((1, len(data)//4)), at), 325: (4, rng.choice((1, len(data)//4)), at)}
    if way == 3: res |= {o: (4, 1, at + rng.choice((0, 1, len(data), len(data) + 2))) for o in (34665, 34853, 40965)}
    if way == 4:
        for o in rng.sample((258, 277, 284, 317, 320, 338, 339, 347, 530, 532), 4):
            res[o] = rng.randrange(1, 14), rng.choice((1, 3, 100, 2**20, 2**32 - 1)), rng.choice(NASTY)
    if way == 5: res |= {rng.choice(list(res)): (rng.randrange(18), rng.choice(NASTY), rng.choice(NASTY))}
    return tiff(res, data, order, big, rng.random() < .5)

def exif(rng):
    "A sound image with an EXIF block whose tags are loops, shared, or nonsense."
    n, order = rng.choice((100, 20_000)), rng.choice('<>')
    data = bytes(rng.choice((10, 30_000, 2_000_000)))
    same = {i: (7, rng.choice((len(data), 9)), 8) for i in range(40_000, 40_000 + n)}
    links = {34665: (4, 1, rng.choice((0, 8, 8 + len(data)))), 34853: (4, 1, 8 + len(data))}
    block = tiff({274: (3, 1, 6), **links, **same}, data, order, loops=rng.random() < .5)
    if rng.random() < .3: block = rng.randbytes(4) + block[4:]
    kind = rng.choice(('JPEG', 'PNG', 'WEBP', 'raw PNG', 'MPF'))
    b = save(card(), kind.split()[-1] if kind != 'MPF' else 'JPEG')
    if kind == 'JPEG':
        parts = [block[i:i+65_000] for i in range(0, len(block), 65_000)]
        return b[:2] + b''.join(b'\xff\xe1' + struct.pack('>H', 8 + len(o)) + b'Exif\0\0' + o for o in parts) + b[2:]
    if kind == 'MPF':
        block = block[:60_000]
        return b[:2] + b'\xff\xe2' + struct.pack('>H', 6 + len(block)) + b'MPF\0' + block + b[2:]
    if kind == 'PNG': return b[:33] + chunk(b'eXIf', block) + b[33:]
    if kind == 'raw PNG':
        text = b'Raw profile type exif\0\nexif\n%d\n' % len(block) + block.hex().encode()
        return b[:33] + chunk(b'tEXt', text) + b[33:]
    return save(card(), 'WEBP', exif=b'Exif\0\0' + block)

def giant_png(w, h):
    "A small PNG that says it is `w` x `h`."
    b = save(card('L'), 'PNG')
    return mended(b[:16] + struct.pack('>II', w, h) + b[24:])

def giant_tiff(w, h, compression=1, rows=1):
    "A TIFF of 99 bytes that says it is `w` x `h`, in strips of `rows`."
    return tiff({256: (4, 1, w), 257: (4, 1, h), 258: (3, 1, 8), 259: (3, 1, compression), 262: (3, 1, 1),
                 277: (3, 1, 1), 278: (4, 1, rows), 273: (4, 1, 8), 279: (4, 1, 99)}, bytes(99))

def giants(rng):
    "Headers that say far more, or just less, than may be; whole images of one colour that are as large as may be."
    w, h = rng.choice(((60_000, 60_000), (50_000_000, 1), (1, 50_000_000), (65_535, 65_535), (2**31 - 1, 1), (0, 5),
                       (7000, 7142)))
    b = save(card('L'), kind := rng.choice(('PNG', 'BMP', 'GIF', 'JPEG', 'PPM', 'TIFF')))
    if kind == 'PNG': return giant_png(w, h)
    if kind == 'BMP': return b[:18] + struct.pack('<Ii', w, rng.choice((h, -h))) + b[26:]
    if kind == 'GIF': return b[:6] + struct.pack('<HH', w & 65535, h & 65535) + b[10:]
    if kind == 'JPEG':
        at = b.index(b'\xff\xc0') + 5
        return b[:at] + struct.pack('>HH', h & 65535, w & 65535) + b[at+4:]
    if kind == 'PPM':
        head = b'%s %d %d %d\n' % (rng.choice((b'P4', b'P5', b'P6', b'Pf')), w, h, rng.choice((1, 255, 65535)))
        return head + b[15:]
    return giant_tiff(w, h, rng.choice((1, 5, 8)), rng.choice((1, h)))

WHOLE = [(kind, kw) for kind, kw in (('PNG', {}), ('PNG', dict(bits=1)), ('JPEG', {}), ('JPEG', dict(progressive=True)),
         ('GIF', {}), ('WEBP', dict(lossless=True, method=0)), ('TIFF', dict(compression='tiff_lzw')),
         ('TIFF', dict(compression='tiff_adobe_deflate')), ('TIFF', dict(compression='jpeg')))]

def whole(rng):
    "A small file that really is as many pixels as are allowed."
    kind, kw = rng.choice(WHOLE)
    modes = ('L', 'RGB') if kind == 'JPEG' or kw.get('compression') == 'jpeg' else ('L', 'RGB', 'P')
    return save(Image.new(rng.choice(modes), rng.choice(((7000, 7000), (16_000, 3000)))), kind, **kw)

# --- all of them

LONG = {'scans': scans, 'floods': floods, 'tags': tags, 'exif': exif, 'giants': giants}

def cases(seed, n):
    "Some sound files, then `n` cases of all classes: (class, case)."
    rng = random.Random(seed)
    ours, others = list(sound(SAVED)), list(sound(OTHERS))
    plain = dict(formats=FORMATS, exif=False, mode='RGB', file='', lazy=False)
    for _, b in rng.sample(ours, 20): yield 'sound', dict(plain, data=b)
    names = ['mutated']*12 + ['unasked']*3 + ['asked', 'extension', 'noise', *LONG, *LONG]
    for i in range(n):
        name = names[i % len(names)]
        kind, b = rng.choice(ours)
        case = dict(formats=FORMATS, exif=rng.random() < .3, mode=rng.choice(('RGB', 'RGB', 'L', 'RGBA')), file='',
                    lazy=rng.random() < .1)
        if i % 500 == 499: name, b = 'whole', whole(rng)
        elif name in LONG: b = LONG[name](rng)
        elif name == 'mutated': b = mutated(rng, b, rng.choice(ours)[1])
        elif name == 'extension': case['file'] = 'x.' + rng.choice(('jpg', 'png', 'txt', 'eps', 'gz', 'tif', 'svg'))
        elif name == 'noise': b = b[:rng.choice((2, 4, 8, 12, 30))] + rng.randbytes(rng.choice((1, 50, 5000)))
        else:
            b = mutated(rng, rng.choice(others)[1], b)
            case |= dict(formats=FORMATS if name == 'unasked' else None)
        yield name, case | dict(data=b)

def attack(case, folder):
    "Open the image of one case: 'refused' or 'opened', and then it is Pillow's own."
    data, kw = case['data'], dict(mode=case['mode'], exif=case['exif'])
    x = data
    if case['file']:
        x = Path(folder)/case['file']
        x.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')     # Pillow's, about tags
        if case['lazy'] and case['formats'] is not None:
            try: x = Image.open(io.BytesIO(data), formats=FORMATS[:-2]) if len(data) < 100_000 else data
            except Exception: pass          # nobody has such an image
        try: im = open_image(x, **kw, formats=case['formats'])
        except ImageError as e:
            assert '\n' not in str(e) and len(str(e)) < 600, repr(e)
            return 'refused'
        assert im.mode == case['mode'] and 0 < im.size[0]*im.size[1] <= MAX, im
        if im.size[0]*im.size[1] <= CHEAP and not case['exif'] and len(data) < 1_000_000:
            assert not ImageFile.LOAD_TRUNCATED_IMAGES
            theirs = Image.open(io.BytesIO(data))
            theirs.load()                   # what a TIFF says of its direction is done here
            if theirs.info.get('compression') in FAX: return 'opened'
            if 'transparency' in theirs.info and case['mode'] != 'RGBA': del theirs.info['transparency']
            theirs = theirs.convert(case['mode'])
            assert theirs.size == im.size and theirs.tobytes() == im.tobytes(), f'unlike Pillow: {theirs} {im}'
    return 'opened'
