// predict: what does a fastai model say of these pictures?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastai_bundle.h"
#include "picture.h"

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#endif

namespace fs = std::filesystem;
using fastai_deploy::Answer;
using fastai_deploy::Bundle;

namespace {

constexpr auto usage = R"(usage: predict [options] IMAGE...
       predict --decode DIR IMAGE...

  IMAGE             JPEG or PNG files
  --bundle DIR      the bundle; otherwise the folder `bundle` beside the program,
                    one level above it, or in the working directory
  --json            one JSON object a line
  -o, --output DIR  save the masks or images there, as NAME.png
  --original-size   masks at the size of the image; 255: not looked at
  --overwrite       replace files in DIR
  --max-pixels N    refuse images of more pixels; otherwise the bundle's limit; up to 500000000
  --decode DIR      predict nothing, write the decoded pixels to DIR/NAME.ppm
  --help            this text
)";

constexpr std::size_t shown = 5;                     // classes named for an image
constexpr std::uint64_t decode_max_pixels = 50000000;  // for --decode, which needs no bundle

struct Options {
    fs::path bundle, decode, output;
    bool json = false, original_size = false, overwrite = false;
    std::optional<std::uint64_t> max_pixels;
};

struct UsageError : std::runtime_error { using std::runtime_error::runtime_error; };

// ------------------------------------------------------------------------------------------------- printing

template <class T>
std::string text(const char* format, T value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

// The shortest digits that read back as the same float32.
std::string json(float value) {
    char buffer[32];
    for (int digits = 6; digits <= 9; ++digits) {
        std::snprintf(buffer, sizeof buffer, "%.*g", digits, static_cast<double>(value));
        if (std::strtof(buffer, nullptr) == value) break;
    }
    return buffer;
}

std::string json(double value) {
    char buffer[32];
    for (int digits = 15; digits <= 17; ++digits) {
        std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
        if (std::strtod(buffer, nullptr) == value) break;
    }
    return buffer;
}

// How many bytes the UTF-8 character at s[i] has; 0 if it is none (a file name may be any bytes).
std::size_t utf8_length(const std::string& s, std::size_t i) {
    const auto byte = [&](std::size_t k) { return k < s.size() ? static_cast<unsigned char>(s[k]) : 0u; };
    const unsigned a = byte(i), b = byte(i + 1);
    const auto follows = [&](std::size_t k) { return (byte(k) & 0xC0) == 0x80; };
    if (a < 0x80) return 1;
    if (a >= 0xC2 && a < 0xE0) return follows(i + 1) ? 2 : 0;
    if (a >= 0xE0 && a < 0xF0)
        return follows(i + 1) && follows(i + 2) && !(a == 0xE0 && b < 0xA0) && !(a == 0xED && b >= 0xA0) ? 3 : 0;
    if (a >= 0xF0 && a < 0xF5)
        return follows(i + 1) && follows(i + 2) && follows(i + 3) && !(a == 0xF0 && b < 0x90) &&
                       !(a == 0xF4 && b >= 0x90) ? 4 : 0;
    return 0;
}

// The control character at s[i], of `length` bytes; 0 if it is none. It could move a terminal's cursor, change its
// colours or turn its letters around.
unsigned control(const std::string& s, std::size_t i, std::size_t length) {
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(s[k]); };
    if (length == 1 && (byte(i) < 0x20 || byte(i) == 0x7F)) return byte(i);
    if (length == 2 && byte(i) == 0xC2 && byte(i + 1) < 0xA0) return byte(i + 1);
    if (length != 3 || byte(i) != 0xE2) return 0;
    const unsigned c = 0x2000u + (byte(i + 1) & 0x3Fu) * 64 + (byte(i + 2) & 0x3Fu);
    return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) ? c : 0;
}

// Text for a terminal: control characters, and bytes that are no UTF-8, as \x1b, \u202e ...
std::string plain(const std::string& s) {
    std::string out;
    for (std::size_t i = 0; i < s.size();) {
        const auto length = utf8_length(s, i);
        if (length == 0) out += text("\\x%02x", static_cast<unsigned char>(s[i]));
        else if (const auto c = control(s, i, length)) out += text(c < 0x100 ? "\\x%02x" : "\\u%04x", c);
        else out.append(s, i, length);
        i += std::max<std::size_t>(length, 1);
    }
    return out;
}

std::string json(const std::string& s) {
    std::string out = "\"";
    for (std::size_t i = 0; i < s.size();) {
        const auto length = utf8_length(s, i);
        if (length == 0) out += "\\ufffd";
        else if (s[i] == '"' || s[i] == '\\') (out += '\\') += s[i];
        else if (const auto c = control(s, i, length)) out += text("\\u%04x", c);
        else out.append(s, i, length);
        i += std::max<std::size_t>(length, 1);
    }
    return out + "\"";
}

template <class T, class F>
std::string joined(const std::vector<T>& items, std::size_t most, F show) {
    std::string out;
    for (std::size_t i = 0; i < std::min(items.size(), most); ++i) out += (i ? ", " : "") + show(items[i]);
    return out;
}

template <class T, class F>
std::string all(const std::vector<T>& items, F show) { return joined(items, items.size(), show); }

std::string in_words(const Answer& answer) {
    if (!answer.points.empty()) {
        std::string out;
        for (const auto& p : answer.points)
            out += (out.empty() ? "(" : " (") + text("%.1f", p.x) + ", " + text("%.1f", p.y) + ")";
        return out;
    }
    if (!answer.shares.empty())
        return all(answer.shares, [](const auto& s) { return s.label + text(" %.1f%%", 100.0 * s.share); });
    if (!answer.pixels.empty())
        return "an image of " + std::to_string(answer.width) + "x" + std::to_string(answer.height);
    if (answer.classes.empty())
        return all(answer.values, [](float v) { return text("%.4g", static_cast<double>(v)); });
    return joined(answer.classes, shown, [](const auto& c) { return c.label + text(" %.1f%%", 100.0 * c.prob); });
}

// `saved`: where the answer was saved; empty if it was not.
std::string in_json(const std::string& name, const Bundle& bundle, const Answer& answer, const std::string& saved) {
    std::string out = "{\"path\": " + json(name);
    const auto end = saved.empty() ? std::string("}") : ", \"output\": " + json(saved) + "}";
    if (!answer.points.empty())
        return out + ", \"points\": [" +
               all(answer.points, [](const auto& p) { return "[" + json(p.x) + ", " + json(p.y) + "]"; }) + "]" + end;
    if (!answer.pixels.empty()) {
        out += ", \"height\": " + std::to_string(answer.height) + ", \"width\": " + std::to_string(answer.width);
        if (!answer.shares.empty())
            out += ", \"shares\": {" +
                   all(answer.shares, [](const auto& s) { return json(s.label) + ": " + json(s.share); }) + "}";
        return out + end;
    }
    if (answer.classes.empty())
        return out + ", \"values\": [" + all(answer.values, [](float v) { return json(v); }) + "]" + end;
    const auto& best = answer.classes.front();
    if (bundle.task() == "multilabel")
        out += ", \"labels\": [" + all(answer.labels, [](const std::string& l) { return json(l); }) + "]";
    else
        out += ", \"label\": " + json(best.label) + ", \"index\": " + std::to_string(best.index) +
               ", \"prob\": " + json(best.prob);
    return out + ", \"top\": [" + joined(answer.classes, shown, [](const auto& c) {
        return "{\"label\": " + json(c.label) + ", \"prob\": " + json(c.prob) + "}";
    }) + "]" + end;
}

// ------------------------------------------------------------------------------------------------- saving

void check_options(const Options& options, const std::string& task) {  // those that do not go with the bundle
    const bool mask = task == "segmentation", image = task == "image_to_image", saved = !options.output.empty();
    if (saved && !mask && !image)
        throw std::runtime_error("--output is for masks and images, and this bundle is for " + task);
    if (image && !saved)
        throw std::runtime_error("this bundle answers with images: say where they go, --output FOLDER");
    if (options.original_size && !(saved && mask))
        throw std::runtime_error("--original-size is for masks that are saved: segmentation, with --output FOLDER");
}

// Which file each answer becomes.
std::vector<fs::path> places(const std::vector<fs::path>& images, const Options& options) {
    std::map<std::string, fs::path> taken;  // by name, in lower case: some file systems know no other
    std::vector<fs::path> all;
    for (const auto& image : images) {
        const auto to = (options.output / image.stem()).concat(".png");
        auto name = to.u8string();
        std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
        const auto other = taken.emplace(name, image).first->second;
        std::error_code none;  // of a file that is not there
        if (other != image && !fs::equivalent(other, image, none))
            throw std::runtime_error(other.u8string() + " and " + image.u8string() + " would both become " +
                                     to.u8string() + ": run them apart, into a folder each");
        for (const auto& input : images)
            if (fs::equivalent(input, to, none))
                throw std::runtime_error(to.u8string() + " is one of the images: choose another folder");
        if (fs::exists(to) && !options.overwrite)
            throw std::runtime_error(to.u8string() + " is there already: --overwrite, or another folder");
        all.push_back(to);
    }
    return all;
}

// A file is there whole or not at all.
void save(const fs::path& to, const std::vector<std::uint8_t>& bytes) {
    const auto fresh = to.parent_path() / fs::u8path("." + to.filename().u8string() + "." + std::to_string(std::random_device{}()));
    std::error_code wrong;
    try {
        fs::create_directories(to.parent_path());
        std::ofstream stream(fresh, std::ios::binary);
        stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        stream.close();
        if (!stream) throw std::runtime_error("its folder takes no file, or no more bytes");
        fs::rename(fresh, to);
    } catch (const std::exception& error) {
        fs::remove(fresh, wrong);
        throw std::runtime_error(to.u8string() + " cannot be written: " + error.what());
    }
}

std::vector<std::uint8_t> as_png(const Answer& answer, const Picture& image, bool original_size) {
    if (!original_size) return encode_png(answer.pixels, answer.width, answer.height, answer.channels);
    return encode_png(original_mask(answer, image.width, image.height), image.width, image.height, 1);
}

// ------------------------------------------------------------------------------------------------ the program

void refuse(const std::string& name, std::string why) {  // one line, whatever a library wrote
    for (char& c : why) if (c == '\n' || c == '\r') c = ' ';
    std::cerr << plain("predict: " + name + ": " + why) << std::endl;
}

void write_ppm(const Picture& picture, const fs::path& file) {
    std::ofstream stream(file, std::ios::binary);
    stream << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    stream.write(reinterpret_cast<const char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!stream.flush()) throw std::runtime_error("cannot write " + file.u8string());
}

fs::path default_bundle(const fs::path& program) {
    const auto beside = program.parent_path();  // the program may be in build/: look above it too
    for (const auto& folder : {beside / "bundle", beside / ".." / "bundle"})
        if (!beside.empty() && fs::is_directory(folder)) return folder;
    return "bundle";
}

// `each` does one image (the i-th) and throws what is wrong with it; the others are still done.
template <class F>
int over(const std::vector<fs::path>& images, F each) {
    int code = 0;
    for (std::size_t i = 0; i < images.size(); ++i) {
        try {
            each(images[i], i);
        } catch (const std::exception& error) {
            refuse(images[i].u8string(), error.what());
            code = 1;
        }
    }
    return code;
}

int predict(const Options& options, const std::vector<fs::path>& images) {
    Bundle bundle(options.bundle, Ort::SessionOptions(), options.max_pixels);
    check_options(options, bundle.task());
    std::vector<fs::path> to;
    if (!options.output.empty()) to = places(images, options);
    return over(images, [&](const fs::path& file, std::size_t i) {
        const auto picture = read_picture(file, bundle.max_pixels());
        const auto answer = bundle.predict(picture.rgb.data(), picture.width, picture.height);
        if (!to.empty()) save(to[i], as_png(answer, picture, options.original_size));
        const auto name = file.u8string(), saved = to.empty() ? "" : to[i].u8string();
        const auto words = name + ": " + in_words(answer) + (saved.empty() ? "" : " \xE2\x86\x92 " + saved);
        std::cout << (options.json ? in_json(name, bundle, answer, saved) : plain(words)) << std::endl;
    });
}

std::uint64_t pixels(const std::string& word) {
    const bool digits = !word.empty() && word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos;
    const auto n = digits ? std::stoull(word) : 0;
    if (n < 1 || n > fastai_deploy::largest_max_pixels)
        throw UsageError("--max-pixels takes a whole number from 1 to 500000000, not '" + word + "'");
    return n;
}

int run(const std::vector<fs::path>& arguments) {
    Options options;
    std::vector<fs::path> images;
    bool only_images = false;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const auto word = arguments[i].u8string();
        const auto next = [&](const std::string& what) {
            if (++i == arguments.size() || arguments[i].empty()) throw UsageError(word + " needs a " + what);
            return arguments[i];
        };
        if (only_images || word.empty() || word[0] != '-') images.push_back(arguments[i]);
        else if (word == "--") only_images = true;
        else if (word == "--json") options.json = true;
        else if (word == "--original-size") options.original_size = true;
        else if (word == "--overwrite") options.overwrite = true;
        else if (word == "--bundle") options.bundle = next("folder");
        else if (word == "--decode") options.decode = next("folder");
        else if (word == "--output" || word == "-o") options.output = next("folder");
        else if (word == "--max-pixels") options.max_pixels = pixels(next("number").u8string());
        else if (word == "--help" || word == "-h") return std::cout << usage, 0;
        else throw UsageError("no option " + word);
    }
    if (images.empty()) throw UsageError("no images");

    if (!options.decode.empty()) {
        fs::create_directories(options.decode);
        return over(images, [&](const fs::path& file, std::size_t) {
            const auto picture = read_picture(file, options.max_pixels.value_or(decode_max_pixels));
            write_ppm(picture, (options.decode / file.stem()).concat(".ppm"));
        });
    }
    if (options.bundle.empty()) options.bundle = default_bundle(arguments[0]);
    try {
        return predict(options, images);
    } catch (const std::exception& error) {
        refuse(options.bundle.u8string(), error.what());
        return 1;
    }
}

int run_or_refuse(const std::vector<fs::path>& arguments) {
    try {
        return run(arguments);
    } catch (const UsageError& error) {
        std::cerr << plain(std::string("predict: ") + error.what()) << '\n' << usage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << plain(std::string("predict: ") + error.what()) << '\n';
        return 1;
    }
}

}  // namespace

#ifdef _WIN32
int wmain(int argc, wchar_t** argv) {  // wide: any file name works
    SetConsoleOutputCP(CP_UTF8);
#else
int main(int argc, char** argv) {
#endif
    return run_or_refuse(std::vector<fs::path>(argv, argv + argc));
}
