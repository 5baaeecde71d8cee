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
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

/** The command line. */
public final class Main {
    static final String USAGE = """
        usage: java -jar predict.jar [--bundle DIR] [--json] picture [picture ...]
               java -jar predict.jar --decode FOLDER picture [picture ...]

          --bundle DIR     the bundle (default: bundle beside the program or in the working directory)
          --json           one JSON object a line
          --decode FOLDER  predict nothing: write the decoded pictures there, as NAME.ppm
          --help           this text
        """;

    private final PrintStream out, err;

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
        String bundle = null, decode = null;
        boolean json = false, options = true;
        List<String> pictures = new ArrayList<>();
        for (int i = 0; i < args.length; i++) {
            String arg = args[i];
            if (!options || !arg.startsWith("-") || arg.equals("-")) pictures.add(arg);
            else if (arg.equals("--")) options = false;
            else if (arg.equals("--json")) json = true;
            else if (arg.equals("--bundle") || arg.equals("--decode")) {
                if (++i == args.length) return usage(arg + " needs a folder");
                if (arg.equals("--bundle")) bundle = args[i];
                else decode = args[i];
            } else if (arg.equals("--help") || arg.equals("-h")) {
                out.print(USAGE);
                return 0;
            } else return usage("no option " + arg);
        }
        if (pictures.isEmpty()) return usage("no pictures");
        return decode != null ? decode(decode, pictures) : predict(bundle, json, pictures);
    }

    private int usage(String wrong) {
        err.println("predict: " + wrong);
        err.print(USAGE);
        return 2;
    }

    private int refuse(String what, Exception why) {
        err.println("predict: " + what + ": " + why.getMessage());
        return 1;
    }

    private int predict(String folder, boolean json, List<String> pictures) {
        File dir = folder != null ? new File(folder) : defaultBundle();
        int code = 0;
        try (Bundle bundle = Bundle.open(dir)) {
            if (bundle.task.equals("segmentation") || bundle.task.equals("image_to_image")) {
                throw new Refused("a " + bundle.task + " bundle: this program shows classes and numbers only"
                    + " (Bundle.predict gives the raw output)");
            }
            for (String name : pictures) {
                try {
                    Picture picture = Picture.read(path(name), bundle.maxPixels);
                    Answer answer = bundle.predict(picture.rgb(), picture.width(), picture.height());
                    out.println(json ? json(name, bundle, answer) : name + ": " + line(bundle, answer));
                } catch (Refused e) {
                    code = refuse(name, e);
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

    private int decode(String folder, List<String> pictures) {
        int code = 0;
        for (String name : pictures) {
            try {
                Picture picture = Picture.read(path(name), Long.MAX_VALUE);
                Path to = path(folder).resolve(path(name).getFileName().toString().replaceFirst("\\.[^.]*$", "") + ".ppm");
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
        if (v == 0 || Float.isNaN(v) || Float.isInfinite(v)) return v == 0 ? "0" : String.valueOf(v);
        BigDecimal four = new BigDecimal(v).round(new MathContext(4));
        return four.scale() <= 0 ? four.toBigInteger().toString() : four.stripTrailingZeros().toPlainString();
    }

    private static String json(String path, Bundle bundle, Answer answer) {
        String start = "{\"path\": " + quoted(path) + ", ";
        if (!bundle.hasClasses()) {
            List<String> numbers = new ArrayList<>();
            for (float v : answer.values) numbers.add(number(v));
            return start + "\"values\": [" + String.join(", ", numbers) + "]}";
        }
        String top = answer.top(5).stream()
            .map(i -> "{\"label\": " + quoted(bundle.vocab.get(i)) + ", \"prob\": " + number(answer.values[i]) + "}")
            .collect(Collectors.joining(", ", "\"top\": [", "]}"));
        if (bundle.task.equals("multilabel")) {
            return start + answer.labels().stream().map(Main::quoted).collect(Collectors.joining(", ", "\"labels\": [", "], ")) + top;
        }
        return start + "\"label\": " + quoted(answer.label()) + ", \"index\": " + answer.index()
            + ", \"prob\": " + number(answer.prob()) + ", " + top;
    }

    /** Float.toString has the digits that bring the same float32 back. JSON has no NaN. */
    static String number(float v) {
        return Float.isNaN(v) || Float.isInfinite(v) ? "null" : Float.toString(v);
    }

    static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') json.append('\\').append(c);
            else if (c < 0x20 || Character.isSurrogate(c)) json.append(String.format("\\u%04x", (int) c));
            else json.append(c);
        }
        return json.append('"').toString();
    }
}
