package predict;

import java.io.BufferedOutputStream;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.math.MathContext;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** The command line. */
public final class Main {
    static final String USAGE = """
        usage: java -jar predict.jar [options] image [image ...]
               java -jar predict.jar --decode FOLDER image [image ...]

          --bundle DIR         the bundle (default: bundle beside the program or in the working directory)
          --json               one JSON object a line
          -o, --output FOLDER  save the masks or images there, as NAME.png
          --original-size      masks at the size of the image; 255: not looked at
          --overwrite          replace files in FOLDER
          --max-pixels N       refuse images of more pixels (default: the bundle's limit; up to 500000000)
          --decode FOLDER      predict nothing: write the decoded images there, as NAME.ppm
          --help               this text
        """;
    /** For --decode, which needs no bundle. */
    private static final long MAX_PIXELS = 50_000_000;

    private final PrintStream out, err;

    /** What the command line says. */
    private static final class Options {
        String bundle, decode, output;
        boolean json, originalSize, overwrite;
        long maxPixels; // 0: the bundle's
    }

    Main(PrintStream out, PrintStream err) {
        this.out = out;
        this.err = err;
    }

    public static void main(String[] args) {
        System.setProperty("java.awt.headless", "true");
        // UTF-8 whatever the locale says: names of classes and files may hold any letter.
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
        PrintStream err = new PrintStream(new FileOutputStream(FileDescriptor.err), true, StandardCharsets.UTF_8);
        System.exit(new Main(out, err).run(args));
    }

    /** The exit code: 0, 1 if something was refused, 2 for a usage error. */
    int run(String... args) {
        Options o = new Options();
        boolean options = true;
        List<String> images = new ArrayList<>();
        for (int i = 0; i < args.length; i++) {
            String arg = args[i];
            if (!options || !arg.startsWith("-") || arg.equals("-")) images.add(arg);
            else if (arg.equals("--")) options = false;
            else if (arg.equals("--json")) o.json = true;
            else if (arg.equals("--original-size")) o.originalSize = true;
            else if (arg.equals("--overwrite")) o.overwrite = true;
            else if (List.of("--bundle", "--decode", "--output", "-o", "--max-pixels").contains(arg)) {
                if (++i == args.length) return usage(arg + " needs a " + (arg.equals("--max-pixels") ? "number" : "folder"));
                if (arg.equals("--bundle")) o.bundle = args[i];
                else if (arg.equals("--decode")) o.decode = args[i];
                else if (!arg.equals("--max-pixels")) o.output = args[i];
                else if ((o.maxPixels = pixels(args[i])) == 0) {
                    return usage("--max-pixels takes a whole number from 1 to " + Bundle.LARGEST + ", not '" + args[i] + "'");
                }
            } else if (arg.equals("--help") || arg.equals("-h")) {
                out.print(USAGE);
                return 0;
            } else return usage("no option " + arg);
        }
        if (images.isEmpty()) return usage("no images");
        return o.decode != null ? decode(o, images) : predict(o, images);
    }

    /** The number in a word, 0 if it is none that is allowed. */
    private static long pixels(String word) {
        long n = word.matches("[0-9]{1,9}") ? Long.parseLong(word) : 0;
        return n <= Bundle.LARGEST ? n : 0;
    }

    private int usage(String wrong) {
        err.println(plain("predict: " + wrong));
        err.print(USAGE);
        return 2;
    }

    private int refuse(String what, Exception why) {
        err.println(plain("predict: " + what + ": " + why.getMessage()));
        return 1;
    }

    private int predict(Options o, List<String> images) {
        File dir = o.bundle != null ? new File(o.bundle) : defaultBundle();
        int code = 0;
        try (Bundle bundle = Bundle.open(dir, o.maxPixels)) {
            checkOptions(o, bundle.task);
            List<Path> places = o.output != null ? places(images, path(o.output), o.overwrite) : null;
            for (int i = 0; i < images.size(); i++) {
                String name = images.get(i);
                try {
                    Picture picture = Picture.read(path(name), bundle.maxPixels);
                    Answer answer = bundle.predict(picture.rgb(), picture.width(), picture.height());
                    String saved = places == null ? null : save(answer, picture, places.get(i), o.originalSize);
                    out.println(o.json ? json(name, bundle, answer, saved) : plain(name + ": " + line(bundle, answer)
                        + (saved == null ? "" : " → " + saved)));
                } catch (Refused e) {
                    code = refuse(name, e);
                } catch (OutOfMemoryError e) {
                    code = refuse(name, new Refused("is too large for the memory (try java -Xmx4g)", e));
                }
            }
        } catch (Refused e) {
            return refuse(dir.getPath(), e);
        } catch (UnsatisfiedLinkError | ExceptionInInitializerError | NoClassDefFoundError e) {
            // for example a machine that the ONNX Runtime package has no library for
            return refuse("ONNX Runtime cannot be loaded", new Refused(Bundle.oneLine(e), e));
        }
        return code;
    }

    /** Refuse options that do not go with the bundle. */
    private static void checkOptions(Options o, String task) throws Refused {
        boolean mask = task.equals("segmentation"), image = task.equals("image_to_image");
        if (o.output != null && !mask && !image) {
            throw new Refused("--output is for masks and images, and this bundle is for " + task);
        }
        if (image && o.output == null) {
            throw new Refused("this bundle answers with images: say where they go, --output FOLDER");
        }
        if (o.originalSize && !(mask && o.output != null)) {
            throw new Refused("--original-size is for masks that are saved: segmentation, with --output FOLDER");
        }
    }

    /** A file's name without its ending. */
    private static String stem(Path file) {
        return String.valueOf(file.getFileName()).replaceFirst("(?<=.)\\.[^.]*$", "");
    }

    private static Path real(Path file) {
        try {
            return file.toRealPath();
        } catch (IOException e) { // it is not there
            return file.toAbsolutePath().normalize();
        }
    }

    /** Which file each answer becomes. */
    private static List<Path> places(List<String> images, Path folder, boolean overwrite) throws Refused {
        Set<Path> inputs = new HashSet<>();
        for (String name : images) inputs.add(real(path(name)));
        Map<String, String> taken = new HashMap<>(); // by name, in lower case: some file systems know no other
        List<Path> places = new ArrayList<>();
        for (String name : images) {
            Path to = folder.resolve(stem(path(name)) + ".png");
            String other = taken.putIfAbsent(to.toString().toLowerCase(Locale.ROOT), name);
            if (other != null && !real(path(other)).equals(real(path(name)))) {
                throw new Refused(other + " and " + name + " would both become " + to + ": run them apart, into a folder each");
            }
            if (inputs.contains(real(to))) throw new Refused(to + " is one of the images: choose another folder");
            if (Files.exists(to) && !overwrite) throw new Refused(to + " is there already: --overwrite, or another folder");
            places.add(to);
        }
        return places;
    }

    /** Write a mask or an image, whole or not at all; where. */
    private static String save(Answer a, Picture image, Path to, boolean originalSize) throws Refused {
        Path fresh = to.resolveSibling("." + to.getFileName() + "." + ProcessHandle.current().pid());
        try {
            byte[] png = originalSize
                ? Picture.png(a.originalMask(image.width(), image.height()), image.width(), image.height(), 1)
                : Picture.png(a.pixels, a.width, a.height, a.channels);
            Files.createDirectories(to.toAbsolutePath().getParent());
            try {
                Files.write(fresh, png);
                Files.move(fresh, to, StandardCopyOption.ATOMIC_MOVE);
            } finally {
                Files.deleteIfExists(fresh);
            }
        } catch (IOException e) {
            throw new Refused(to + " cannot be written: " + Bundle.oneLine(e), e);
        }
        return to.toString();
    }

    private int decode(Options o, List<String> images) {
        int code = 0;
        for (String name : images) {
            try {
                Picture picture = Picture.read(path(name), o.maxPixels > 0 ? o.maxPixels : MAX_PIXELS);
                Path to = path(o.decode).resolve(stem(path(name)) + ".ppm");
                Files.createDirectories(to.getParent());
                try (OutputStream ppm = new BufferedOutputStream(Files.newOutputStream(to))) {
                    ppm.write(("P6\n" + picture.width() + " " + picture.height() + "\n255\n").getBytes(StandardCharsets.US_ASCII));
                    ppm.write(picture.rgb());
                }
            } catch (Refused e) {
                code = refuse(name, e);
            } catch (IOException e) {
                code = refuse(name, new Refused("cannot be written: " + e));
            }
        }
        return code;
    }

    private static Path path(String name) throws Refused {
        // Java decodes the command line with the locale's letters.
        if (name.indexOf('\uFFFD') >= 0) throw new Refused("has letters that this locale has not: set LC_ALL=C.UTF-8");
        try {
            return Path.of(name);
        } catch (InvalidPathException e) {
            throw new Refused("is no file name: " + e.getReason(), e);
        }
    }

    /** bundle beside the jar, or beside the folder that it is in (target), or in the working directory */
    private static File defaultBundle() {
        try {
            File place = new File(Main.class.getProtectionDomain().getCodeSource().getLocation().toURI()).getParentFile();
            for (File dir = place; dir != null && dir != place.getParentFile().getParentFile(); dir = dir.getParentFile()) {
                if (new File(dir, "bundle").isDirectory()) return new File(dir, "bundle");
            }
        } catch (URISyntaxException | RuntimeException e) {
            // not started from a file: the working directory then
        }
        return new File("bundle");
    }

    private static String line(Bundle bundle, Answer answer) {
        if (answer.points != null) {
            return Arrays.stream(answer.points).map(p -> String.format(Locale.ROOT, "(%.1f, %.1f)", p[0], p[1]))
                .collect(Collectors.joining(" "));
        }
        if (bundle.task.equals("segmentation")) {
            double[] shares = answer.shares();
            return Answer.largestFirst(shares).stream().filter(i -> shares[i] > 0)
                .map(i -> String.format(Locale.ROOT, "%s %.1f%%", bundle.vocab.get(i), 100 * shares[i]))
                .collect(Collectors.joining(", "));
        }
        if (answer.pixels != null) return "an image of " + answer.width + "x" + answer.height;
        if (!bundle.hasClasses()) {
            List<String> numbers = new ArrayList<>();
            for (float v : answer.values) numbers.add(short4(v));
            return String.join(", ", numbers);
        }
        return answer.top(5).stream()
            .map(i -> String.format(Locale.ROOT, "%s %.1f%%", bundle.vocab.get(i), 100.0 * answer.values[i]))
            .collect(Collectors.joining(", "));
    }

    /** Four digits are enough to look at. */
    private static String short4(float v) {
        if (v == 0) return "0";
        BigDecimal four = new BigDecimal(v).round(new MathContext(4));
        return four.scale() <= 0 ? four.toBigInteger().toString() : four.stripTrailingZeros().toPlainString();
    }

    /** saved: where the answer was saved; null if it was not. */
    private static String json(String path, Bundle bundle, Answer answer, String saved) {
        String start = "{\"path\": " + quoted(path) + ", ";
        if (answer.points != null) {
            return start + Arrays.stream(answer.points).map(p -> "[" + p[0] + ", " + p[1] + "]")
                .collect(Collectors.joining(", ", "\"points\": [", "]}"));
        }
        if (answer.pixels != null) {
            String shares = "";
            if (bundle.task.equals("segmentation")) {
                double[] all = answer.shares();
                shares = Answer.largestFirst(all).stream().filter(i -> all[i] > 0)
                    .map(i -> quoted(bundle.vocab.get(i)) + ": " + all[i])
                    .collect(Collectors.joining(", ", ", \"shares\": {", "}"));
            }
            return start + "\"height\": " + answer.height + ", \"width\": " + answer.width + shares
                + (saved == null ? "" : ", \"output\": " + quoted(saved)) + "}";
        }
        if (!bundle.hasClasses()) {
            List<String> numbers = new ArrayList<>();
            for (float v : answer.values) numbers.add(Float.toString(v));
            return start + "\"values\": [" + String.join(", ", numbers) + "]}";
        }
        String top = answer.top(5).stream()
            .map(i -> "{\"label\": " + quoted(bundle.vocab.get(i)) + ", \"prob\": " + answer.values[i] + "}")
            .collect(Collectors.joining(", ", "\"top\": [", "]}"));
        if (bundle.task.equals("multilabel")) {
            return start + answer.labels().stream().map(Main::quoted).collect(Collectors.joining(", ", "\"labels\": [", "], ")) + top;
        }
        return start + "\"label\": " + quoted(answer.label()) + ", \"index\": " + answer.index()
            + ", \"prob\": " + answer.prob() + ", " + top;
    }

    /** What could move a terminal's cursor, change its colours or turn its letters around. */
    private static boolean isControl(char c) {
        return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
    }

    /** Text for a terminal: a control character as a backslash and its number. */
    static String plain(String text) {
        StringBuilder plain = new StringBuilder();
        for (char c : text.toCharArray()) {
            if (isControl(c)) plain.append(String.format(c < 0x100 ? "\\x%02x" : "\\u%04x", (int) c));
            else plain.append(c);
        }
        return plain.toString();
    }

    static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') json.append('\\').append(c);
            else if (isControl(c) || Character.isSurrogate(c)) json.append(String.format("\\u%04x", (int) c));
            else json.append(c);
        }
        return json.append('"').toString();
    }
}
