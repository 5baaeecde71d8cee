package predict;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;

/** What a bundle answers for one picture. */
public final class Answer {
    /** The numbers of the output: probabilities, values, coordinates … */
    public final float[] values;
    /** The output's shape, for example [1, 37]. */
    public final long[] shape;

    private final Bundle bundle;

    Answer(Bundle bundle, float[] values, long[] shape) {
        this.bundle = bundle;
        this.values = values;
        this.shape = shape;
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
        List<Integer> places = new ArrayList<>();
        for (int i = 0; i < values.length; i++) places.add(i);
        Collections.sort(places, new Comparator<Integer>() {
            @Override
            public int compare(Integer a, Integer b) {
                return Float.compare(values[b], values[a]);
            }
        });
        return places.subList(0, Math.min(n, places.size()));
    }
}
