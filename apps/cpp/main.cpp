// predict: what does a fastai model say of these pictures?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
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

constexpr auto usage = R"(usage: predict [--bundle DIR] [--json] PICTURE...
       predict --decode DIR PICTURE...

  PICTURE        JPEG or PNG files
  --bundle DIR   the bundle; otherwise the folder `bundle` beside the program,
                 one level above it, or in the working directory
  --json         one JSON object a line
  --decode DIR   predict nothing, write the decoded pixels to DIR/NAME.ppm
  --help         this text
)";

constexpr std::size_t shown = 5;                     // classes named for a picture
constexpr std::uint64_t decode_max_pixels = 50000000;  // for --decode, which needs no bundle

struct UsageError : std::runtime_error { using std::runtime_error::runtime_error; };

// ------------------------------------------------------------------------------------------------- printing

std::string text(const char* format, double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

// The shortest digits that read back as the same float32.
std::string json(float value) {
    if (!std::isfinite(value)) return "null";
    char buffer[32];
    for (int digits = 6; digits <= 9; ++digits) {
        std::snprintf(buffer, sizeof buffer, "%.*g", digits, static_cast<double>(value));
        if (std::strtof(buffer, nullptr) == value) break;
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

std::string json(const std::string& s) {
    std::string out = "\"";
    for (std::size_t i = 0; i < s.size();) {
        const auto length = utf8_length(s, i);
        const auto c = static_cast<unsigned char>(s[i]);
        if (length == 0) out += "\\ufffd";
        else if (c == '"' || c == '\\') (out += '\\') += s[i];
        else if (c < 0x20 || c == 0x7F) {
            char buffer[8];
            std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c));
            out += buffer;
        } else out.append(s, i, length);
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

std::string in_words(const Answer& answer) {
    if (answer.classes.empty())
        return joined(answer.values, answer.values.size(), [](float v) { return text("%.4g", v); });
    return joined(answer.classes, shown, [](const auto& c) { return c.label + text(" %.1f%%", 100.0 * c.prob); });
}

std::string in_json(const std::string& name, const Bundle& bundle, const Answer& answer) {
    std::string out = "{\"path\": " + json(name);
    if (answer.classes.empty())
        return out + ", \"values\": [" +
               joined(answer.values, answer.values.size(), [](float v) { return json(v); }) + "]}";
    const auto& best = answer.classes.front();
    if (bundle.task() == "multilabel")
        out += ", \"labels\": [" +
               joined(answer.labels, answer.labels.size(), [](const std::string& l) { return json(l); }) + "]";
    else
        out += ", \"label\": " + json(best.label) + ", \"index\": " + std::to_string(best.index) +
               ", \"prob\": " + json(best.prob);
    return out + ", \"top\": [" + joined(answer.classes, shown, [](const auto& c) {
        return "{\"label\": " + json(c.label) + ", \"prob\": " + json(c.prob) + "}";
    }) + "]}";
}

// ------------------------------------------------------------------------------------------------ the program

void refuse(const std::string& name, std::string why) {  // one line, whatever a library wrote
    for (char& c : why) if (c == '\n' || c == '\r') c = ' ';
    std::cerr << "predict: " << name << ": " << why << std::endl;
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

// `each` does one picture and throws what is wrong with it; the others are still done.
template <class F>
int over(const std::vector<fs::path>& pictures, F each) {
    int code = 0;
    for (const auto& picture : pictures) {
        try {
            each(picture);
        } catch (const std::exception& error) {
            refuse(picture.u8string(), error.what());
            code = 1;
        }
    }
    return code;
}

int predict(const fs::path& folder, const std::vector<fs::path>& pictures, bool as_json) {
    Bundle bundle(folder);
    if (bundle.task() == "segmentation" || bundle.task() == "image_to_image")
        throw std::runtime_error("a " + bundle.task() + " model: this program shows labels and numbers only; "
                                 "Bundle::run() gives the raw output");
    return over(pictures, [&](const fs::path& file) {
        const auto picture = read_picture(file, bundle.max_pixels());
        const auto answer = bundle.predict(picture.rgb.data(), picture.width, picture.height);
        const auto name = file.u8string();
        std::cout << (as_json ? in_json(name, bundle, answer) : name + ": " + in_words(answer)) << std::endl;
    });
}

int run(const std::vector<fs::path>& arguments) {
    fs::path bundle, decode;
    std::vector<fs::path> pictures;
    bool as_json = false, only_pictures = false;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const auto word = arguments[i].u8string();
        const auto folder = [&] {
            if (++i == arguments.size() || arguments[i].empty()) throw UsageError(word + " needs a folder");
            return arguments[i];
        };
        if (only_pictures || word.empty() || word[0] != '-') pictures.push_back(arguments[i]);
        else if (word == "--") only_pictures = true;
        else if (word == "--json") as_json = true;
        else if (word == "--bundle") bundle = folder();
        else if (word == "--decode") decode = folder();
        else if (word == "--help" || word == "-h") return std::cout << usage, 0;
        else throw UsageError("no option " + word);
    }
    if (pictures.empty()) throw UsageError("no pictures");

    if (!decode.empty()) {
        fs::create_directories(decode);
        return over(pictures, [&](const fs::path& file) {
            write_ppm(read_picture(file, decode_max_pixels), (decode / file.stem()).concat(".ppm"));
        });
    }
    if (bundle.empty()) bundle = default_bundle(arguments[0]);
    try {
        return predict(bundle, pictures, as_json);
    } catch (const std::exception& error) {
        refuse(bundle.u8string(), error.what());
        return 1;
    }
}

int run_or_refuse(const std::vector<fs::path>& arguments) {
    try {
        return run(arguments);
    } catch (const UsageError& error) {
        std::cerr << "predict: " << error.what() << '\n' << usage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "predict: " << error.what() << '\n';
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
