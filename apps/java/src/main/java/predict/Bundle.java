package predict;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.regex.Pattern;

/**
 * A model that fastai_deploy exported. It takes a decoded picture of any size and gives the answer;
 * everything in between, resizing included, is inside {@code pixels.onnx}.
 *
 * <p>Needs ONNX Runtime and the plainest part of Java only (language level 8, no java.awt, no
 * javax.imageio), so that this file can be copied into an Android app. Open one and share it: any
 * number of threads may call {@code predict} at once.
 */
public final class Bundle implements AutoCloseable {
    public static final String FORMAT = "fastai_deploy/1";
    /** No limit of one's own is higher, in pixels. */
    public static final long LARGEST = 500_000_000;
    private static final Pattern SPOILED = Pattern.compile("[\u00F0-\u00F4][\u0080-\u00BF]{3}");

    /** classification, multilabel, regression, points, segmentation or image_to_image */
    public final String task;
    /** Names of the classes, in the order of the output. Empty where the answer is no class. */
    public final List<String> vocab;
    /** Pictures with more pixels than this are refused. */
    public final long maxPixels;
    /** multilabel: a label holds above it. NaN for the other tasks. */
    public final float threshold;

    private final OrtEnvironment env = OrtEnvironment.getEnvironment();
    private final OrtSession session;
    private final String input;
    private final String output;
    private final String decoded; // the output with the answer of points, segmentation, image_to_image; else null
    private final Set<String> outputs; // those that are asked for; there may be others
    // Predictions share the read lock; close waits for them with the write lock.
    private final ReadWriteLock lock = new ReentrantReadWriteLock();
    private boolean closed = false;

    /** Open a bundle's folder. */
    public static Bundle open(File folder) throws Refused {
        return open(folder, 0);
    }

    /** The same with a limit of your own: pictures with more than maxPixels are refused. 0: the bundle's. */
    public static Bundle open(File folder, long maxPixels) throws Refused {
        if (!folder.isDirectory()) throw new Refused("no bundle there");
        File model = new File(folder, "pixels.onnx");
        if (!model.isFile()) {
            if (!new File(folder, "bundle.json").isFile()) throw new Refused("no bundle there: it has no bundle.json");
            throw new Refused("no pixels.onnx in it: export the bundle again"
                + " (model.onnx alone needs the item transforms, which this program has not)");
        }
        File names = new File(folder, "vocab.txt");
        return new Bundle(model.getPath(), null, names.isFile() ? text(names) : null, maxPixels);
    }

    /** The same from the bytes of {@code pixels.onnx}, for example an asset of an Android app. */
    public Bundle(byte[] model) throws Refused {
        this(null, model, null, 0);
    }

    /** The same with a limit of your own. */
    public Bundle(byte[] model, long maxPixels) throws Refused {
        this(null, model, null, maxPixels);
    }

    private Bundle(String path, byte[] bytes, String names, long most) throws Refused {
        if (most < 0 || most > LARGEST) throw new Refused("a limit of " + most + " pixels: it may be up to " + LARGEST);
        OrtSession opened = null;
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR);
            opened = path != null ? env.createSession(path, options) : env.createSession(bytes, options);
            // What a program must know about the model travels inside it.
            Map<String, String> facts = opened.getMetadata().getCustomMetadata();
            String format = facts.get("format");
            if (!FORMAT.equals(format)) {
                throw new Refused("its format is " + (format == null ? "not said" : format) + ", this program reads " + FORMAT);
            }
            task = fact(facts, "task");
            output = fact(facts, "output");
            decoded = task.equals("points") ? "places" : task.equals("segmentation") ? "mask"
                : task.equals("image_to_image") ? "levels" : null;
            outputs = new LinkedHashSet<>(Collections.singleton(output));
            if (decoded != null) outputs.addAll(Arrays.asList(decoded, "window"));
            for (String name : outputs) {
                if (!opened.getOutputNames().contains(name)) {
                    throw new Refused("pixels.onnx has no output " + name + ": export the bundle again");
                }
            }
            maxPixels = most > 0 ? most : Long.parseLong(fact(facts, "max_pixels"));
            threshold = task.equals("multilabel") ? Float.parseFloat(fact(facts, "threshold")) : Float.NaN;
            if (names == null) {
                names = facts.containsKey("vocab") ? facts.get("vocab") : "";
                // The binding hands strings over with JNI's NewStringUTF, which on a desktop JVM spoils
                // letters of four bytes (an emoji, say) and cuts the end off. vocab.txt has them whole.
                if (SPOILED.matcher(names).find()) {
                    throw new Refused("the names of its classes have letters that come out of pixels.onnx spoiled:"
                        + " open the bundle's folder, with its vocab.txt");
                }
            }
            boolean none = names.isEmpty();
            if (names.endsWith("\n")) names = names.substring(0, names.length() - 1);
            vocab = none ? Collections.<String>emptyList()
                : Collections.unmodifiableList(Arrays.asList(names.split("\n", -1)));
            input = opened.getInputNames().iterator().next();
            session = opened;
        } catch (OrtException | RuntimeException | Refused e) {
            if (opened != null) quietly(opened);
            if (e instanceof Refused) throw (Refused) e;
            throw new Refused("pixels.onnx cannot be opened: " + oneLine(e), e);
        }
    }

    /**
     * The answer for a decoded picture: row after row, three bytes (red, green, blue) a pixel, as
     * the file has it (not turned by EXIF, no colour management, alpha dropped, grey as R=G=B).
     */
    public Answer predict(byte[] rgb, int width, int height) throws Refused {
        return predict(ByteBuffer.wrap(rgb), width, height);
    }

    /** The same from a buffer, from its position to its limit. A direct buffer is not copied. */
    public Answer predict(ByteBuffer rgb, int width, int height) throws Refused {
        checkSize(width, height, maxPixels);
        long bytes = 3L * width * height;
        if (rgb.remaining() != bytes) {
            throw new Refused(width + "x" + height + " pixels are " + bytes + " bytes, not " + rgb.remaining());
        }
        long[] shape = {height, width, 3};
        lock.readLock().lock();
        try {
            if (closed) throw new IllegalStateException("the bundle is closed");
            try (OnnxTensor picture = OnnxTensor.createTensor(env, rgb.duplicate(), shape, OnnxJavaType.UINT8);
                 OrtSession.Result result =
                     session.run(Collections.singletonMap(input, picture), outputs)) {
                return answer(result);
            }
        } catch (OrtException e) {
            throw new Refused("the model failed: " + oneLine(e), e);
        } finally {
            lock.readLock().unlock();
        }
    }

    private Answer answer(OrtSession.Result result) throws Refused {
        OnnxTensor tensor = (OnnxTensor) result.get(output).get();
        float[] values = floats(tensor, output);
        for (float v : values) {
            if (Float.isNaN(v) || Float.isInfinite(v)) {
                throw new Refused("the net answers NaN or infinity: its weights are broken");
            }
        }
        if (hasClasses() && values.length != vocab.size()) {
            throw new Refused("the model gives " + values.length + " numbers for " + vocab.size() + " classes");
        }
        long[] shape = tensor.getInfo().getShape();
        if (decoded == null) return new Answer(this, values, shape, null, null, null, new long[2]);

        OnnxTensor more = (OnnxTensor) result.get(decoded).get();
        long[] size = more.getInfo().getShape();
        double[] window = new double[4];
        DoubleBuffer sides = ((OnnxTensor) result.get("window").get()).getDoubleBuffer();
        boolean image = task.equals("image_to_image");
        if (sides == null || sides.remaining() != 4 || size.length != (image ? 3 : 2)
            || (image && size[2] != 1 && size[2] != 3)) {
            throw new Refused("pixels.onnx answers in another shape than a model for " + task + " does");
        }
        sides.get(window);
        if (task.equals("points")) {
            float[] places = floats(more, decoded);
            float[][] points = new float[places.length / 2][];
            for (int i = 0; i < points.length; i++) points[i] = new float[] {places[2 * i], places[2 * i + 1]};
            return new Answer(this, values, shape, window, points, null, new long[2]);
        }
        if (more.getInfo().type != OnnxJavaType.UINT8) throw new Refused("the output " + decoded + " is not uint8");
        ByteBuffer bytes = more.getByteBuffer();
        byte[] pixels = new byte[bytes.remaining()];
        bytes.get(pixels);
        if (!image) {
            for (byte c : pixels) {
                if ((c & 0xFF) >= vocab.size()) throw new Refused("the mask has a class that the vocab has not");
            }
        }
        return new Answer(this, values, shape, window, null, pixels, size);
    }

    private static float[] floats(OnnxTensor tensor, String name) throws Refused {
        FloatBuffer numbers = tensor.getFloatBuffer(); // a copy
        if (numbers == null) throw new Refused("the output " + name + " is not float32");
        float[] values = new float[numbers.remaining()];
        numbers.get(values);
        return values;
    }

    /** Whether the answer is one number for each class of the vocab. */
    public boolean hasClasses() {
        return task.equals("classification") || task.equals("multilabel");
    }

    /** Free the model. Waits for predictions that are under way. */
    @Override
    public void close() {
        lock.writeLock().lock();
        try {
            if (!closed) quietly(session);
            closed = true;
        } finally {
            lock.writeLock().unlock();
        }
    }

    /** Refuse a picture by its size; the decoder asks before it decodes. */
    static void checkSize(int width, int height, long maxPixels) throws Refused {
        if (width < 1 || height < 1) throw new Refused("has no pixels (" + width + "x" + height + ")");
        if ((long) width * height > maxPixels) {
            throw new Refused("has " + (long) width * height + " pixels, more than " + maxPixels);
        }
        // The resize's tables grow with the longest side; no JPEG has a longer one.
        if (Math.max(width, height) > 65535) throw new Refused("has a side of more than 65535 pixels");
    }

    private static String fact(Map<String, String> facts, String name) throws Refused {
        String value = facts.get(name);
        if (value == null) throw new Refused("pixels.onnx says nothing about its " + name);
        return value;
    }

    private static String text(File file) throws Refused {
        byte[] bytes = new byte[(int) file.length()];
        try (DataInputStream in = new DataInputStream(new FileInputStream(file))) {
            in.readFully(bytes);
        } catch (IOException e) {
            throw new Refused(file.getName() + " cannot be read: " + oneLine(e), e);
        }
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static void quietly(OrtSession session) {
        try {
            session.close();
        } catch (OrtException e) {
            // closed is closed
        }
    }

    static String oneLine(Throwable e) {
        return String.valueOf(e.getMessage()).trim().replaceAll("\\s*[\\r\\n]+\\s*", " ");
    }
}
