package predict;

import java.awt.image.BufferedImage;
import java.awt.image.ColorModel;
import java.awt.image.DataBufferByte;
import java.awt.image.IndexColorModel;
import java.awt.image.Raster;
import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32;
import javax.imageio.ImageIO;
import javax.imageio.ImageReader;
import javax.imageio.stream.ImageInputStream;
import javax.imageio.stream.ImageInputStreamImpl;
import javax.imageio.stream.ImageOutputStream;
import javax.imageio.stream.MemoryCacheImageOutputStream;

/**
 * A decoded picture: three bytes (red, green, blue) a pixel, row after row. Desktop only (javax.imageio).
 *
 * <p>The model was trained on the pixels that Pillow gives: {@code Image.open(f).convert('RGB')}. So
 * the numbers are taken as the file has them: from the raster, never with {@code getRGB} (which
 * brightens grey), not turned by EXIF, without colour management, alpha dropped.
 */
public record Picture(byte[] rgb, int width, int height) {

    public static Picture read(Path file, long maxPixels) throws Refused {
        byte[] bytes = contents(file);
        String kind = kind(bytes);
        if (kind.equals("jpeg")) bytes = plainJpeg(bytes);
        if (kind.equals("png")) checkPng(bytes);
        ImageReader reader = ImageIO.getImageReadersByFormatName(kind).next();
        try (ImageInputStream in = new Bytes(bytes)) {
            reader.setInput(in, true, true);
            // The size comes from the header, before anything is decoded.
            int width = reader.getWidth(0), height = reader.getHeight(0);
            Bundle.checkSize(width, height, maxPixels);
            if (kind.equals("gif") && (width != le16(bytes, 6) || height != le16(bytes, 8))) {
                throw new Refused("is a GIF whose first frame does not fill it, which is not supported");
            }
            // Pillow does not scale 16-bit grey (PNG: bit depth 16, colour type 0) but cuts it off at 255.
            boolean cut = kind.equals("png") && u8(bytes, 24) == 16 && u8(bytes, 25) == 0;
            return new Picture(rgb(reader.read(0), cut), width, height);
        } catch (OutOfMemoryError e) {
            throw new Refused("is too large for the memory (try java -Xmx4g)", e);
        } catch (IOException | RuntimeException e) {
            Throwable first = e;
            while (first.getCause() != null) first = first.getCause();
            if (first instanceof EOFException) throw new Refused("is truncated", e);
            throw new Refused("is damaged, or of a kind that Java does not decode: " + Bundle.oneLine(first), e);
        } finally {
            reader.dispose();
        }
    }

    /** Rows of pixels of one byte (grey) or three (red, green, blue) → the bytes of a PNG. */
    public static byte[] png(byte[] pixels, int width, int height, int channels) throws IOException {
        int[] bands = channels == 1 ? new int[] {0} : new int[] {0, 1, 2};
        DataBufferByte data = new DataBufferByte(pixels, pixels.length);
        BufferedImage image = new BufferedImage(width, height,
            channels == 1 ? BufferedImage.TYPE_BYTE_GRAY : BufferedImage.TYPE_3BYTE_BGR);
        image.setData(Raster.createInterleavedRaster(data, width, height, width * channels, channels, bands, null));
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ImageOutputStream out = new MemoryCacheImageOutputStream(bytes)) {
            ImageIO.write(image, "png", out);
        }
        return bytes.toByteArray();
    }

    private static byte[] contents(Path file) throws Refused {
        if (Files.isDirectory(file)) throw new Refused("is a folder");
        if (!Files.exists(file)) throw new Refused("is not there");
        try {
            return Files.readAllBytes(file);
        } catch (AccessDeniedException e) {
            throw new Refused("may not be read", e);
        } catch (IOException | OutOfMemoryError e) {
            throw new Refused("cannot be read: " + Bundle.oneLine(e), e);
        }
    }

    private static String kind(byte[] b) throws Refused {
        if (b.length == 0) throw new Refused("is empty");
        if (starts(b, 0xFF, 0xD8, 0xFF)) return "jpeg";
        if (starts(b, 0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n')) return "png";
        if (starts(b, 'G', 'I', 'F', '8')) return "gif";
        if (starts(b, 'B', 'M')) return "bmp";
        throw new Refused("is not an image that this program reads (JPEG, PNG, GIF, BMP)");
    }

    private static byte[] rgb(BufferedImage image, boolean cut) throws Refused {
        Raster raster = image.getRaster();
        ColorModel colours = image.getColorModel();
        IndexColorModel palette = colours instanceof IndexColorModel p ? p : null;
        int width = raster.getWidth(), height = raster.getHeight(), bands = raster.getNumBands();
        int bits = raster.getSampleModel().getSampleSize(0);
        if (palette == null && bits != 8 && bits != 16) {
            throw new Refused("has " + bits + " bits a sample, which is not supported");
        }
        int shift = bits - 8; // of 16 bits Pillow keeps the upper 8 (but see cut)
        boolean grey = bands < 3;
        byte[] rgb = new byte[3 * width * height];
        int[] row = new int[width * bands];
        for (int y = 0, to = 0; y < height; y++) {
            raster.getPixels(0, y, width, 1, row);
            for (int from = 0; from < row.length; from += bands) {
                if (cut) {
                    byte level = (byte) Math.min(row[from], 255);
                    rgb[to++] = level;
                    rgb[to++] = level;
                    rgb[to++] = level;
                } else if (palette != null) {
                    int colour = palette.getRGB(row[from]);
                    rgb[to++] = (byte) (colour >> 16);
                    rgb[to++] = (byte) (colour >> 8);
                    rgb[to++] = (byte) colour;
                } else {
                    rgb[to++] = (byte) (row[from] >> shift);
                    rgb[to++] = (byte) (row[grey ? from : from + 1] >> shift);
                    rgb[to++] = (byte) (row[grey ? from : from + 2] >> shift);
                }
            }
        }
        return rgb;
    }

    /**
     * A JPEG's header without its APPn and comment segments (ICC profile, EXIF …). With a profile
     * ImageIO would convert the colours, which Pillow does not; and it guesses in its own way which
     * colours a file without JFIF and Adobe segments has. So: find out as libjpeg (and so Pillow)
     * does, and say it in an Adobe segment of 14 bytes, which ImageIO believes.
     */
    private static byte[] plainJpeg(byte[] b) throws Refused {
        ByteArrayOutputStream out = new ByteArrayOutputStream(b.length + 16);
        ByteArrayOutputStream rest = new ByteArrayOutputStream();
        boolean jfif = false;
        int adobe = -1; // the Adobe segment's transform
        int[] ids = {};
        int at = 2;
        while (true) {
            while (at + 1 < b.length && !(u8(b, at) == 0xFF && u8(b, at + 1) != 0xFF && u8(b, at + 1) != 0)) at++;
            if (at + 3 >= b.length) throw new Refused("is truncated");
            int marker = u8(b, at + 1);
            if (marker == 0xD9) throw new Refused("cannot be decoded: it has no picture");
            if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD7)) { // markers without a length
                at += 2;
                continue;
            }
            int length = be16(b, at + 2), from = at + 4, next = at + 2 + length;
            if (length < 2) throw new Refused("cannot be decoded: a segment's length is " + length);
            if (next > b.length) throw new Refused("is truncated");
            boolean frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
            if (marker == 0xE0 && length >= 7 && starts(b, from, "JFIF\0")) jfif = true;
            if (marker == 0xEE && length >= 14 && starts(b, from, "Adobe")) adobe = u8(b, from + 11);
            if (frame && length >= 8) {
                int bits = u8(b, from), n = u8(b, from + 5);
                if (bits != 8) throw new Refused("is a JPEG of " + bits + " bits a sample, which is not supported");
                if (n == 4) throw new Refused("is a CMYK JPEG, which is not supported: save it as RGB");
                if (n != 1 && n != 3) throw new Refused("is a JPEG of " + n + " colours, which is not supported");
                ids = new int[n];
                for (int i = 0; i < n && from + 6 + 3 * i < next; i++) ids[i] = u8(b, from + 6 + 3 * i);
            }
            if (!(marker >= 0xE0 && marker <= 0xEF) && marker != 0xFE) rest.write(b, at, next - at);
            at = next;
            if (marker == 0xDA) break; // the compressed data begin
        }
        out.write(b, 0, 2);
        if (ids.length == 3) {
            boolean isRgb = !jfif && (adobe >= 0 ? adobe == 0 : ids[0] == 'R' && ids[1] == 'G' && ids[2] == 'B');
            out.writeBytes(new byte[] {(byte) 0xFF, (byte) 0xEE, 0, 14,
                'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, (byte) (isRgb ? 0 : 1)});
        }
        out.writeBytes(rest.toByteArray());
        out.write(b, at, b.length - at);
        return out.toByteArray();
    }

    /** The checksums of a PNG's chunks before the pixels (palette …): Pillow checks them, ImageIO does not. */
    private static void checkPng(byte[] b) throws Refused {
        int at = 8;
        while (at + 12 <= b.length && !starts(b, at + 4, "IDAT")) {
            long length = be16(b, at) * 65536L + be16(b, at + 2);
            if (length > b.length - at - 12) throw new Refused("is truncated");
            int sum = at + 8 + (int) length;
            CRC32 crc = new CRC32();
            crc.update(b, at + 4, (int) length + 4);
            if (crc.getValue() != be16(b, sum) * 65536L + be16(b, sum + 2)) {
                throw new Refused("is damaged: a checksum is wrong");
            }
            at = sum + 4;
        }
    }

    private static boolean starts(byte[] b, int... with) {
        if (b.length < with.length) return false;
        for (int i = 0; i < with.length; i++) if (u8(b, i) != with[i]) return false;
        return true;
    }

    private static boolean starts(byte[] b, int at, String with) {
        for (int i = 0; i < with.length(); i++) if (at + i >= b.length || b[at + i] != with.charAt(i)) return false;
        return true;
    }

    private static int u8(byte[] b, int at) {
        return b[at] & 0xFF;
    }

    private static int be16(byte[] b, int at) {
        return u8(b, at) << 8 | u8(b, at + 1);
    }

    private static int le16(byte[] b, int at) {
        return u8(b, at + 1) << 8 | u8(b, at);
    }

    /** Bytes as an ImageInputStream whose end is an error: ImageIO would only warn and fill with grey. */
    private static final class Bytes extends ImageInputStreamImpl {
        private final byte[] bytes;

        Bytes(byte[] bytes) {
            this.bytes = bytes;
        }

        @Override
        public int read() throws IOException {
            bitOffset = 0;
            if (streamPos >= bytes.length) throw new EOFException();
            return u8(bytes, (int) streamPos++);
        }

        @Override
        public int read(byte[] to, int off, int len) throws IOException {
            bitOffset = 0;
            if (len == 0) return 0;
            if (streamPos >= bytes.length) throw new EOFException();
            int n = (int) Math.min(len, bytes.length - streamPos);
            System.arraycopy(bytes, (int) streamPos, to, off, n);
            streamPos += n;
            return n;
        }

        @Override
        public long length() {
            return bytes.length;
        }
    }
}
