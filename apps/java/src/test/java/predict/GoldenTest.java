package predict;

import static org.junit.jupiter.api.Assertions.*;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Does the bundle answer here what the model answered in fastai? BUNDLE=dir tests another one. */
class GoldenTest {
    static final Path FOLDER = Path.of(System.getenv().getOrDefault("BUNDLE", "bundle"));
    static Bundle bundle;

    static void needBundle() {
        if (!Files.isDirectory(FOLDER)) fail("no bundle to test in " + FOLDER + ": put one there, or set BUNDLE=dir");
    }

    @BeforeAll
    static void open() throws Exception {
        needBundle();
        bundle = Bundle.open(FOLDER.toFile());
    }

    @AfterAll
    static void close() {
        if (bundle != null) bundle.close();
    }

    static Picture picture(JsonObject golden) throws Refused {
        return Picture.read(FOLDER.resolve("golden").resolve(golden.get("file").getAsString()), bundle.maxPixels);
    }

    static List<JsonObject> goldens() throws Exception {
        List<JsonObject> goldens = new ArrayList<>();
        for (JsonElement e : JsonParser.parseString(Files.readString(FOLDER.resolve("golden/golden.json"))).getAsJsonArray()) {
            goldens.add(e.getAsJsonObject());
        }
        assertFalse(goldens.isEmpty(), "the bundle has no goldens");
        return goldens;
    }

    @Test
    void answersAreThoseOfFastai() throws Exception {
        double worst = 0;
        int others = 0;
        boolean image = bundle.task.equals("image_to_image");
        for (JsonObject golden : goldens()) {
            String file = golden.get("file").getAsString();
            Picture picture = picture(golden);
            Answer answer = bundle.predict(picture.rgb(), picture.width(), picture.height());
            float[] want = new float[golden.getAsJsonArray("probs").size()];
            for (int i = 0; i < want.length; i++) want[i] = golden.getAsJsonArray("probs").get(i).getAsFloat();
            if (bundle.task.equals("points")) want = comparePoints(answer, want, file);
            if (answer.pixels != null) others += comparePixels(answer, golden, file);
            float[] values = answer.pixels != null ? sample(answer.values) : answer.values;
            assertEquals(want.length, values.length, file);
            for (int i = 0; i < want.length; i++) {
                double difference = Math.abs(want[i] - values[i]);
                worst = Math.max(worst, difference);
                // Of numbers above 1 (a regression's) one part in 100000, of an image's ten. Written so that NaN fails too.
                if (!(difference <= (image ? 1e-4 : 1e-5) * Math.max(1, Math.abs(want[i])))) {
                    fail(file + ", number " + i + ": " + values[i] + ", fastai gave " + want[i]);
                }
            }
            String label = golden.get("label").getAsString();
            if (bundle.task.equals("classification")) {
                assertEquals(label, answer.label(), file);
                assertEquals(golden.getAsJsonArray("decided").get(0).getAsInt(), answer.index(), file);
            } else if (bundle.task.equals("multilabel")) {
                assertEquals(label, String.join("; ", answer.labels()), file);
                boolean[] is = answer.decided();
                for (int i = 0; i < is.length; i++) {
                    assertEquals(golden.getAsJsonArray("decided").get(i).getAsBoolean(), is[i], file + " " + i);
                }
            }
        }
        String pixels = bundle.vocab.isEmpty() && !image || bundle.hasClasses() ? "" : ", " + others + " pixels differ";
        System.out.println(goldens().size() + " goldens, largest difference " + worst + pixels);
    }

    /** What golden.json keeps of a larger output: 512 numbers, evenly spread, first and last included. */
    static float[] sample(float[] values) {
        int n = 512;
        if (values.length <= n) return values;
        double step = (values.length - 1) / (n - 1.0);
        float[] some = new float[n];
        for (int i = 0; i < n; i++) some[i] = values[i == n - 1 ? values.length - 1 : (int) (i * step)];
        return some;
    }

    /** Points are in pixels of what the net sees in golden.json: those of the image are compared, -1 to 1 comes back. */
    static float[] comparePoints(Answer answer, float[] said, String file) throws Exception {
        JsonObject spec = JsonParser.parseString(Files.readString(FOLDER.resolve("bundle.json"))).getAsJsonObject();
        JsonElement size = spec.getAsJsonObject("input").get("size");
        for (JsonElement op : spec.getAsJsonArray("batch")) {
            JsonElement its = op.getAsJsonObject().get("size");
            if (its != null && its.isJsonArray()) size = its;
        }
        double height = size.getAsJsonArray().get(0).getAsDouble(), width = size.getAsJsonArray().get(1).getAsDouble();
        float[] values = new float[said.length];
        double[] w = answer.window;
        assertEquals(said.length, 2 * answer.points.length, file);
        for (int i = 0; i < said.length; i++) {
            double share = said[i] / (i % 2 == 0 ? width : height);
            double want = i % 2 == 0 ? w[1] + share * w[3] : w[0] + share * w[2];
            assertEquals(want, answer.points[i / 2][i % 2], 1e-3, file + ": point " + i / 2);
            values[i] = (float) (2 * share - 1);
        }
        return values;
    }

    /** A mask or an image against fastai's: how many pixels differ. They may where float32 cannot tell. */
    static int comparePixels(Answer answer, JsonObject golden, String file) throws Exception {
        Path to = FOLDER.resolve("golden").resolve(golden.get("decided").getAsString());
        Picture said = Picture.read(to, bundle.maxPixels);
        assertEquals(said.width() + "x" + said.height(), answer.width + "x" + answer.height, file);
        int others = 0, plane = answer.width * answer.height;
        for (int i = 0; i < answer.pixels.length; i++) {
            int got = answer.pixels[i] & 0xFF, want = said.rgb()[answer.channels == 1 ? 3 * i : i] & 0xFF;
            if (got == want) continue;
            others++;
            boolean mask = bundle.task.equals("segmentation");
            double off = mask ? 1e4 * Math.abs(answer.values[got * plane + i] - answer.values[want * plane + i]) : Math.abs(got - want);
            assertTrue(off <= 1, file + ": pixel " + i + " is " + got + ", fastai said " + want);
        }
        assertTrue(others <= plane / 1000, file + ": " + others + " pixels differ");
        return others;
    }

    @Test
    void aMaskAtTheSizeOfItsImage() throws Exception {
        byte[] mask = Answer.stretched(new byte[] {0, 1, 1, 0}, 2, 2, new double[] {-1, 1, 3, 2}, 4, 2);
        assertArrayEquals(new byte[] {-1, 1, 0, -1, -1, 1, 0, -1}, mask); // -1: the byte 255
        Picture picture = picture(goldens().get(0));
        Answer answer = bundle.predict(picture.rgb(), picture.width(), picture.height());
        if (bundle.task.equals("segmentation")) {
            assertEquals(picture.width() * picture.height(), answer.originalMask(picture.width(), picture.height()).length);
        }
    }

    @Test
    void manyThreadsMayUseOneBundle() throws Exception {
        Picture picture = picture(goldens().get(0));
        float[] alone = bundle.predict(picture.rgb(), picture.width(), picture.height()).values;
        ByteBuffer direct = ByteBuffer.allocateDirect(picture.rgb().length).put(picture.rgb()).flip();
        ExecutorService threads = Executors.newFixedThreadPool(4);
        try {
            Callable<Answer> one = () -> bundle.predict(direct, picture.width(), picture.height());
            for (Future<Answer> answer : threads.invokeAll(Collections.nCopies(16, one))) {
                assertArrayEquals(alone, answer.get().values, 1e-6f);
            }
        } finally {
            threads.shutdown();
        }
    }

    @Test
    void aClosedBundleSaysSo() throws Exception {
        Picture picture = picture(goldens().get(0));
        Bundle other = new Bundle(Files.readAllBytes(FOLDER.resolve("pixels.onnx")));
        other.predict(picture.rgb(), picture.width(), picture.height());
        other.close();
        other.close();
        assertThrows(IllegalStateException.class, () -> other.predict(picture.rgb(), picture.width(), picture.height()));
    }

    @Test
    void wrongSizesAreRefused() {
        assertThrows(Refused.class, () -> bundle.predict(new byte[11], 2, 2));
        assertThrows(Refused.class, () -> bundle.predict(new byte[0], 0, 2));
        assertThrows(Refused.class, () -> bundle.predict(new byte[12], 65536, 65536));
    }

    @Test
    void aLimitOfPixelsOfOnesOwn() throws Exception {
        for (long most : new long[] {-1, 500_000_001}) {
            assertThrows(Refused.class, () -> Bundle.open(FOLDER.toFile(), most));
        }
        Picture picture = picture(goldens().get(0));
        try (Bundle small = new Bundle(Files.readAllBytes(FOLDER.resolve("pixels.onnx")), 3)) {
            assertThrows(Refused.class, () -> small.predict(picture.rgb(), picture.width(), picture.height()));
        }
        try (Bundle large = Bundle.open(FOLDER.toFile(), 500_000_000)) {
            assertEquals(500_000_000, large.maxPixels);
            large.predict(picture.rgb(), picture.width(), picture.height());
        }
    }
}
