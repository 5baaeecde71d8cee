package predict;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;

/** What a bundle answers for one image. */
public final class Answer {
    /** A class number where the net did not look. */
    public static final int OUTSIDE = 255;

    /** The numbers of the output: probabilities, values, coordinates … */
    public final float[] values;
    /** The output's shape, for example [1, 37]. */
    public final long[] shape;
    /**
     * points, segmentation, image_to_image: what the net saw, in pixels of the image: top, left, height and width.
     * It may stick out. The other tasks: null.
     */
    public final double[] window;
    /** points: {x, y} of each, in pixels of the image. The other tasks: null. */
    public final float[][] points;
    /**
     * segmentation: a class number for each pixel, row after row; image_to_image: its bytes, one a pixel (grey) or
     * three (red, green, blue). The other tasks: null.
     */
    public final byte[] pixels;
    /** Of {@link #pixels}. */
    public final int height, width, channels;

    private final Bundle bundle;

    Answer(Bundle bundle, float[] values, long[] shape, double[] window, float[][] points, byte[] pixels, long[] size) {
        this.bundle = bundle;
        this.values = values;
        this.shape = shape;
        this.window = window;
        this.points = points;
        this.pixels = pixels;
        this.height = (int) size[0];
        this.width = (int) size[1];
        this.channels = size.length > 2 ? (int) size[2] : 1;
    }

    /** classification: which class, by its place in the vocab. */
    public int index() {
        int best = 0;
        for (int i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
        return best;
    }

    /** classification: the name of the class. */
    public String label() {
        return bundle.vocab.get(index());
    }

    /** classification: how sure the model is of it. */
    public float prob() {
        return values[index()];
    }

    /** multilabel: whether each class holds. */
    public boolean[] decided() {
        boolean[] decided = new boolean[values.length];
        for (int i = 0; i < values.length; i++) decided[i] = values[i] > bundle.threshold;
        return decided;
    }

    /** multilabel: the names of those that hold. */
    public List<String> labels() {
        List<String> labels = new ArrayList<>();
        for (int i = 0; i < values.length; i++) if (values[i] > bundle.threshold) labels.add(bundle.vocab.get(i));
        return labels;
    }

    /** The places of the n largest numbers, largest first. */
    public List<Integer> top(int n) {
        double[] numbers = new double[values.length];
        for (int i = 0; i < numbers.length; i++) numbers[i] = values[i];
        List<Integer> places = largestFirst(numbers);
        return places.subList(0, Math.min(n, places.size()));
    }

    /** The places of some numbers, that of the largest first. */
    public static List<Integer> largestFirst(final double[] numbers) {
        List<Integer> places = new ArrayList<>();
        for (int i = 0; i < numbers.length; i++) places.add(i);
        Collections.sort(places, new Comparator<Integer>() {
            @Override
            public int compare(Integer a, Integer b) {
                return Double.compare(numbers[b], numbers[a]);
            }
        });
        return places;
    }

    /** segmentation: how much of the mask each class of the vocab covers, 0 to 1. */
    public double[] shares() {
        double[] counts = new double[bundle.vocab.size()];
        for (byte c : pixels) counts[c & 0xFF]++;
        for (int i = 0; i < counts.length; i++) counts[i] /= pixels.length;
        return counts;
    }

    /** segmentation: the mask at the size of the image itself; {@link #OUTSIDE} where the net did not look. */
    public byte[] originalMask(int imageWidth, int imageHeight) throws Refused {
        if (bundle.vocab.size() > OUTSIDE) throw new Refused("class 255 is one of the model's: it cannot mean outside");
        return stretched(pixels, width, height, window, imageWidth, imageHeight);
    }

    static byte[] stretched(byte[] mask, int width, int height, double[] window, int imageWidth, int imageHeight) {
        int[] ys = from(imageHeight, window[0], window[2], height), xs = from(imageWidth, window[1], window[3], width);
        byte[] all = new byte[imageWidth * imageHeight];
        for (int y = 0, to = 0; y < imageHeight; y++) {
            for (int x = 0; x < imageWidth; x++) {
                all[to++] = ys[y] < 0 || xs[x] < 0 ? (byte) OUTSIDE : mask[ys[y] * width + xs[x]];
            }
        }
        return all;
    }

    /** For each of n pixels, that of the m in the mask; -1 if there is none. */
    private static int[] from(int n, double start, double length, int m) {
        int[] places = new int[n];
        for (int i = 0; i < n; i++) {
            double place = Math.floor((i + .5 - start) * m / length);
            places[i] = place >= 0 && place < m ? (int) place : -1;
        }
        return places;
    }
}
