package predict;

/** A bundle or a picture that cannot be used. The message is one line and says why. */
public class Refused extends Exception {
    private static final long serialVersionUID = 1;

    public Refused(String why) {
        super(why);
    }

    public Refused(String why, Throwable cause) {
        super(why, cause);
    }
}
