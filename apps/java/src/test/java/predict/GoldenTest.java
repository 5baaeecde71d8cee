package predict;

import static org.junit.jupiter.api.Assertions.*;

import com.google.gson.JsonArray;
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
        for (JsonObject golden : goldens()) {
            String file = golden.get("file").getAsString();
            Picture picture = picture(golden);
            Answer answer = bundle.predict(picture.rgb(), picture.width(), picture.height());
            JsonArray want = golden.getAsJsonArray("probs"), decided = golden.getAsJsonArray("decided");
            assertEquals(want.size(), answer.values.length, file);
            for (int i = 0; i < want.size(); i++) {
                double difference = Math.abs(want.get(i).getAsFloat() - answer.values[i]);
                worst = Math.max(worst, difference);
                // Of numbers above 1 (a regression's) one part in 100000. Written so that NaN fails too.
                if (!(difference <= 1e-5 * Math.max(1, Math.abs(want.get(i).getAsFloat())))) {
                    fail(file + ", number " + i + ": " + answer.values[i] + ", fastai gave " + want.get(i));
                }
            }
            String label = golden.get("label").getAsString();
            if (bundle.task.equals("classification")) {
                assertEquals(label, answer.label(), file);
                assertEquals(decided.get(0).getAsInt(), answer.index(), file);
            } else if (bundle.task.equals("multilabel")) {
                assertEquals(label, String.join("; ", answer.labels()), file);
                boolean[] is = answer.decided();
                for (int i = 0; i < is.length; i++) assertEquals(decided.get(i).getAsBoolean(), is[i], file + " " + i);
            }
        }
        System.out.println(goldens().size() + " goldens, largest difference " + worst);
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
}
