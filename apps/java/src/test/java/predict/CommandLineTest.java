package predict;

import static org.junit.jupiter.api.Assertions.*;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.awt.color.ColorSpace;
import java.awt.color.ICC_Profile;
import java.awt.image.BufferedImage;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What is decoded, what is refused, and in which words. */
class CommandLineTest {
    @TempDir
    Path dir;

    /** What a run says: exit code, standard output, standard error. */
    record Said(int code, String out, String err) {
        void refused(String why) {
            assertEquals(1, code, err);
            assertEquals("", out);
            assertEquals(1, err.lines().count(), err);
            assertTrue(err.contains(why), err);
        }
    }

    static Said run(Object... args) {
        ByteArrayOutputStream out = new ByteArrayOutputStream(), err = new ByteArrayOutputStream();
        int code = new Main(new PrintStream(out, true, StandardCharsets.UTF_8), new PrintStream(err, true, StandardCharsets.UTF_8))
            .run(Arrays.stream(args).map(Object::toString).toArray(String[]::new));
        return new Said(code, out.toString(StandardCharsets.UTF_8), err.toString(StandardCharsets.UTF_8));
    }

    /** With the bundle; and images need a place to go to. */
    Said predict(Object... args) throws Exception {
        GoldenTest.needBundle();
        List<Object> all = new ArrayList<>(List.of("--bundle", GoldenTest.FOLDER));
        if (task().equals("image_to_image")) all.addAll(List.of("-o", dir.resolve("out"), "--overwrite"));
        all.addAll(Arrays.asList(args));
        return run(all.toArray());
    }

    static String task() throws Exception {
        String spec = Files.readString(GoldenTest.FOLDER.resolve("bundle.json"));
        return JsonParser.parseString(spec).getAsJsonObject().get("task").getAsString();
    }

    static byte[] encoded(int type, String kind) throws Exception {
        BufferedImage image = new BufferedImage(40, 30, type);
        for (int y = 0; y < 30; y++) for (int x = 0; x < 40; x++) image.setRGB(x, y, 0xFF000000 | x * 6 << 16 | y * 8 << 8 | 99);
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        assertTrue(ImageIO.write(image, kind, out));
        return out.toByteArray();
    }

    Path file(String name, byte[] bytes) throws Exception {
        return Files.write(dir.resolve(name), bytes);
    }

    Path jpeg(String name) throws Exception {
        return file(name, encoded(BufferedImage.TYPE_INT_RGB, "jpg"));
    }

    @Test
    void aLineForEachPicture() throws Exception {
        Path one = jpeg("one.jpg"), two = jpeg("zwei Füße \"猫\".jpg");
        Said said = predict(one, two);
        assertEquals(0, said.code, said.err);
        assertEquals("", said.err);
        String[] lines = said.out.split("\\R");
        assertEquals(2, lines.length);
        assertTrue(lines[1].startsWith(two + ": "));
        for (String line : predict("--json", one, two).out.split("\\R")) {
            JsonObject json = JsonParser.parseString(line).getAsJsonObject();
            assertTrue(json.get("path").getAsString().equals(one.toString()) || json.get("path").getAsString().equals(two.toString()));
            assertTrue(Stream.of("top", "values", "points", "height").anyMatch(json::has), line);
        }
    }

    @Test
    void aRefusedPictureDoesNotStopTheOthers() throws Exception {
        Said said = predict(dir.resolve("nowhere.jpg"), jpeg("one.jpg"));
        assertEquals(1, said.code);
        assertEquals(1, said.out.lines().count());
        assertTrue(said.err.endsWith("nowhere.jpg: is not there\n".replace("\n", System.lineSeparator())), said.err);
    }

    @Test
    void badPicturesAreRefusedInOneLine() throws Exception {
        predict(dir).refused("is a folder");
        predict(file("empty.png", new byte[0])).refused("is empty");
        predict(file("text.jpg", "hello".getBytes())).refused("is not an image");
        for (int type : new int[] {BufferedImage.TYPE_INT_RGB, BufferedImage.TYPE_BYTE_GRAY}) {
            byte[] jpeg = encoded(type, "jpg");
            for (int cut : new int[] {1, 2, 3, 100, jpeg.length - 100, jpeg.length - 10}) {
                predict(file("cut.jpg", Arrays.copyOf(jpeg, jpeg.length - cut))).refused("is truncated");
            }
        }
        byte[] png = encoded(BufferedImage.TYPE_INT_RGB, "png");
        predict(file("cut.png", Arrays.copyOf(png, png.length / 2))).refused("is truncated");
        png[20]++;
        predict(file("sum.png", png)).refused("a checksum is wrong");
        byte[] cmyk = {(byte) 0xFF, (byte) 0xD8, (byte) 0xFF, (byte) 0xC0, 0, 20, 8, 0, 9, 0, 9, 4,
            1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0, (byte) 0xFF, (byte) 0xDA, 0, 2};
        predict(file("cmyk.jpg", cmyk)).refused("CMYK");
    }

    @Test
    void theSizeIsReadBeforeThePixels() throws Exception {
        byte[] png = encoded(BufferedImage.TYPE_INT_RGB, "png");
        png[16] = 0x40; // a width of more than 2^30, and the header's checksum anew
        CRC32 crc = new CRC32();
        crc.update(png, 12, 17);
        ByteBuffer.wrap(png).putInt(29, (int) crc.getValue());
        Refused why = assertThrows(Refused.class, () -> Picture.read(file("wide.png", png), 50_000_000));
        assertTrue(why.getMessage().contains("more than 50000000"), why.getMessage());
    }

    @Test
    void badBundlesAreRefusedInOneLine() throws Exception {
        Path one = jpeg("one.jpg"), folder = Files.createDirectory(dir.resolve("b"));
        run("--bundle", dir.resolve("nowhere"), one).refused("no bundle there");
        run("--bundle", folder, one).refused("no bundle there");
        Files.writeString(folder.resolve("bundle.json"), "{}");
        run("--bundle", folder, one).refused("no pixels.onnx");
        Files.writeString(folder.resolve("pixels.onnx"), "this is no model");
        run("--bundle", folder, one).refused("cannot be opened");
    }

    /** A folder with the bundle's files, in whose pixels.onnx one text stands for another of the same length. */
    Path changed(String text, String other) throws Exception {
        Path folder = Files.createDirectory(dir.resolve("changed " + other.length()));
        for (String name : new String[] {"bundle.json", "vocab.txt"}) {
            Path file = GoldenTest.FOLDER.resolve(name);
            if (Files.exists(file)) Files.copy(file, folder.resolve(name));
        }
        String graph = Files.readString(GoldenTest.FOLDER.resolve("pixels.onnx"), StandardCharsets.ISO_8859_1);
        assertTrue(graph.contains(text) && text.length() == other.length());
        Files.writeString(folder.resolve("pixels.onnx"), graph.replace(text, other), StandardCharsets.ISO_8859_1);
        return folder;
    }

    @Test
    void aBundleFromBeforeIsRefused() throws Exception {
        GoldenTest.needBundle();
        if (!List.of("points", "segmentation", "image_to_image").contains(task())) return;
        run("--bundle", changed("window", "widnow"), jpeg("one.jpg")).refused("has no output window: export the bundle again");
    }

    @Test
    void theLimitOfPixels() throws Exception {
        Path one = jpeg("one.jpg"), small = changed("50000000", "00000100");
        String[] to = {"-o", dir.resolve("out").toString(), "--overwrite"};
        boolean image = task().equals("image_to_image");
        Object[] place = image ? to : new Object[0];
        run(Stream.of(new Object[] {"--bundle", small, one}, place).flatMap(Arrays::stream).toArray()).refused("more than 100");
        Object[] more = {"--bundle", small, "--max-pixels", "1200", one};
        Said said = run(Stream.of(more, place).flatMap(Arrays::stream).toArray());
        assertEquals(0, said.code, said.err);
        predict("--max-pixels", "10", one).refused("more than 10");
        run("--decode", dir, "--max-pixels", "10", one).refused("more than 10");
        for (String n : new String[] {"0", "-1", "1.5", "many", "500000001"}) {
            said = predict("--max-pixels", n, one);
            assertEquals(2, said.code);
            assertTrue(said.err.contains("--max-pixels takes a whole number from 1 to 500000000"), said.err);
        }
    }

    @Test
    void masksAndImagesAreSavedAndReplaceNothingUnasked() throws Exception {
        Path one = jpeg("one.jpg"), folder = dir.resolve("saved"), to = folder.resolve("one.png");
        GoldenTest.needBundle();
        Object[] ask = {"--bundle", GoldenTest.FOLDER, "-o", folder, one};
        if (!List.of("segmentation", "image_to_image").contains(task())) {
            run(ask).refused("--output is for masks and images");
            predict("--original-size", one).refused("--original-size is for masks");
            return;
        }
        Said said = run(ask);
        assertEquals(0, said.code, said.err);
        assertTrue(said.out.endsWith(" → " + to + System.lineSeparator()), said.out);
        Picture image = Picture.read(one, 9999);
        try (Bundle bundle = Bundle.open(GoldenTest.FOLDER.toFile())) {
            Answer answer = bundle.predict(image.rgb(), image.width(), image.height());
            assertArrayEquals(answer.pixels, saved(to, answer.channels));
            run(ask).refused("one.png is there already: --overwrite");
            if (task().equals("segmentation")) {
                said = run("--bundle", GoldenTest.FOLDER, "-o", folder, "--overwrite", "--original-size", "--json", one);
                assertEquals(to.toString(), JsonParser.parseString(said.out).getAsJsonObject().get("output").getAsString());
                assertArrayEquals(answer.originalMask(40, 30), saved(to, 1));
            } else {
                predict("--original-size", one).refused("--original-size is for masks");
                run("--bundle", GoldenTest.FOLDER, one).refused("say where they go, --output FOLDER");
            }
        }
        assertArrayEquals(new String[] {"one.png"}, folder.toFile().list());
        Path other = Files.copy(one, Files.createDirectory(dir.resolve("more")).resolve("ONE.jpg"));
        run("--bundle", GoldenTest.FOLDER, "-o", folder, "--overwrite", one, other).refused("would both become");
        run("--bundle", GoldenTest.FOLDER, "-o", folder, "--overwrite", to).refused("is one of the images");
        Files.delete(to);
        Files.createDirectory(to); // a folder in the way: nothing half-written stays
        run("--bundle", GoldenTest.FOLDER, "-o", folder, "--overwrite", one).refused("cannot be written");
        assertArrayEquals(new String[] {"one.png"}, folder.toFile().list());
    }

    static byte[] saved(Path png, int channels) throws Exception {
        byte[] rgb = Picture.read(png, 1_000_000).rgb(), grey = new byte[rgb.length / 3];
        for (int i = 0; i < grey.length; i++) grey[i] = rgb[3 * i];
        return channels == 3 ? rgb : grey;
    }

    @Test
    void noControlCharacterReachesATerminal() throws Exception {
        String nasty = "a\u001b[31m\u009b\u202e\r", shown = "a\\x1b[31m\\x9b\\u202e\\x0d";
        predict(nasty + ".jpg").refused("predict: " + shown + ".jpg: is not there");
        assertEquals("\"a\\u001b[31m\\u009b\\u202e\\u000d\"", Main.quoted(nasty));
        Path names = GoldenTest.FOLDER.resolve("vocab.txt");
        if (!Files.exists(names)) return;
        Path folder = changed("format", "format");
        List<String> labels = new ArrayList<>();
        for (String name : Files.readAllLines(names)) labels.add(nasty + name);
        Files.writeString(folder.resolve("vocab.txt"), String.join("\n", labels) + "\n");
        for (String json : new String[] {"--", "--json"}) {
            Said said = json.equals("--") ? run("--bundle", folder, jpeg("one.jpg")) : run("--bundle", folder, json, jpeg("one.jpg"));
            assertEquals(0, said.code, said.err);
            assertTrue(said.out.contains(json.equals("--") ? shown : "\\u001b[31m"), said.out);
            assertTrue(said.out.strip().chars().noneMatch(c -> c < 0x20 || c == 0x9B || c == 0x202E), said.out);
        }
    }

    @Test
    void usageErrors() {
        for (Object[] args : new Object[][] {{}, {"--what", "a.jpg"}, {"--bundle"}, {"--json"}, {"a.jpg", "--max-pixels"}}) {
            Said said = run(args);
            assertEquals(2, said.code);
            assertTrue(said.err.contains("usage:"));
        }
        assertEquals(0, run("--help").code);
    }

    @Test
    void greyIsNotBrightenedAndAlphaIsDropped() throws Exception {
        BufferedImage grey = new BufferedImage(1, 1, BufferedImage.TYPE_BYTE_GRAY);
        grey.getRaster().setSample(0, 0, 0, 100);
        BufferedImage clear = new BufferedImage(1, 1, BufferedImage.TYPE_INT_ARGB);
        clear.setRGB(0, 0, 0x000A141E);
        ByteArrayOutputStream a = new ByteArrayOutputStream(), b = new ByteArrayOutputStream();
        ImageIO.write(grey, "png", a);
        ImageIO.write(clear, "png", b);
        assertArrayEquals(new byte[] {100, 100, 100}, Picture.read(file("grey.png", a.toByteArray()), 9).rgb());
        assertArrayEquals(new byte[] {10, 20, 30}, Picture.read(file("clear.png", b.toByteArray()), 9).rgb());
    }

    @Test
    void aColourProfileChangesNothing() throws Exception {
        byte[] jpeg = encoded(BufferedImage.TYPE_INT_RGB, "jpg");
        byte[] profile = ICC_Profile.getInstance(ColorSpace.CS_LINEAR_RGB).getData();
        ByteArrayOutputStream with = new ByteArrayOutputStream();
        int jfif = 20, length = 16 + profile.length; // the profile goes behind SOI and the JFIF segment
        with.write(jpeg, 0, jfif);
        with.writeBytes(new byte[] {(byte) 0xFF, (byte) 0xE2, (byte) (length >> 8), (byte) length});
        with.writeBytes("ICC_PROFILE\0\1\1".getBytes(StandardCharsets.ISO_8859_1));
        with.writeBytes(profile);
        with.write(jpeg, jfif, jpeg.length - jfif);
        assertArrayEquals(Picture.read(file("a.jpg", jpeg), 9999).rgb(), Picture.read(file("b.jpg", with.toByteArray()), 9999).rgb());
    }

    @Test
    void decodeWritesPpm() throws Exception {
        Path one = jpeg("one.jpg");
        assertEquals(0, run("--decode", dir.resolve("out"), one).code);
        byte[] ppm = Files.readAllBytes(dir.resolve("out/one.ppm"));
        assertEquals("P6\n40 30\n255\n", new String(ppm, 0, 13, StandardCharsets.US_ASCII));
        assertEquals(13 + 40 * 30 * 3, ppm.length);
    }
}
