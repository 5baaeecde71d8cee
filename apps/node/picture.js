// A file of a picture → its pixels, the same that Pillow gives in Python: as stored, without EXIF rotation,
// without colour management, the alpha channel dropped, grey as R=G=B.
import { readFile } from 'node:fs/promises';
import sharp from 'sharp';
import { Refusal } from './model.js';

// What sharp decodes to the same pixels as Pillow. It knows more (GIF, TIFF, AVIF, SVG …), which gives others.
const KINDS = ['jpeg', 'png', 'webp'];

/** The picture in `file`, a path or the bytes themselves: { data: Uint8Array of height*width*3, width, height }. */
export async function decode(file, maxPixels = 50_000_000) {
  const bytes = file instanceof Uint8Array ? file : await read(file);
  // 'error' refuses what Pillow refuses: a truncated file. 'warning' would refuse sloppy JPEGs that Pillow takes.
  const options = { ignoreIcc: true, autoOrient: false, failOn: 'error', limitInputPixels: false };

  let head; // from the header alone: nothing is decoded yet
  try {
    head = await sharp(bytes, options).metadata();
  } catch {
    throw new Refusal(bytes.length ? 'not a JPEG, PNG or WebP picture, or its header is damaged' : 'an empty file');
  }
  const { format, space, channels, width, height } = head;
  if (!KINDS.includes(format)) throw new Refusal(`a kind of picture that is not supported: ${format}`);
  if (width * height > maxPixels) throw new Refusal(`${width}x${height} is more than ${maxPixels} pixels`);
  // Pillow turns these two into RGB in ways of its own
  if (space === 'cmyk') throw new Refusal('a CMYK picture: save it as RGB');
  if (space === 'grey16' && channels === 1) throw new Refusal('an image of 16-bit grey levels: save it with 8 bits');

  try {
    const image = sharp(bytes, options).removeAlpha().toColourspace('srgb').raw();
    const { data, info } = await image.toBuffer({ resolveWithObject: true });
    if (info.channels !== 3) throw new Error(`${info.channels} channels`);
    return { data, width: info.width, height: info.height };
  } catch (error) {
    throw new Refusal(`truncated or damaged: ${error.message.trim().split('\n')[0]}`);
  }
}

/** Rows of bytes (one channel: grey; three: R, G, B) → the bytes of a PNG. */
export function encode(data, { width, height, channels }) {
  const image = sharp(data, { raw: { width, height, channels }, limitInputPixels: false });
  return image.toColourspace(channels === 1 ? 'b-w' : 'srgb').png().toBuffer();
}

async function read(file) {
  try {
    return await readFile(file);
  } catch (error) {
    const why = { ENOENT: 'no such file', EISDIR: 'a folder, not an image', EACCES: 'may not be read' };
    throw new Refusal(why[error.code] ?? error.message);
  }
}
