// What ctest runs, besides the program itself:
//   check goldens BUNDLE LIST   the goldens of a bundle through the core; LIST, made by goldens.cmake from golden.json:
//                               height and width of what the net sees, then four lines for each image (file, label,
//                               file of the mask or image, numbers)
//   check decode TESTS          the decoder: what it must take, and what it must refuse; TESTS: this folder
//   check mask                  a mask at the size of its image
//   check make DIR              pictures and bundles for cli.cmake
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>
#include <png.h>

#include "fastai_bundle.h"
#include "picture.h"

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    std::cerr << "FAILED: " << what << '\n';
    ++failures;
}

// ------------------------------------------------------------------------------------------------- goldens

using fastai_deploy::Answer;
constexpr double tolerance = 1e-5;  // of a probability; of a number above 1, that part of it; of an image ten times that

// What golden.json keeps of a larger output: 512 numbers, evenly spread, first and last included.
std::vector<float> sample(const std::vector<float>& values, std::size_t n = 512) {
    if (values.size() <= n) return values;
    const double step = static_cast<double>(values.size() - 1) / static_cast<double>(n - 1);
    std::vector<float> some;
    for (std::size_t i = 0; i + 1 < n; ++i) some.push_back(values[static_cast<std::size_t>(static_cast<double>(i) * step)]);
    some.push_back(values.back());
    return some;
}

// A mask or an image against fastai's: how many pixels differ. They may where float32 cannot tell.
int compare_pixels(const Answer& answer, const Picture& said, bool mask, const std::string& file) {
    if (said.width != answer.width || said.height != answer.height) return expect(false, file + ": size"), 0;
    const std::size_t plane = static_cast<std::size_t>(answer.width) * static_cast<std::size_t>(answer.height);
    int others = 0;
    for (std::size_t i = 0; i < answer.pixels.size(); ++i) {
        const auto got = answer.pixels[i], want = said.rgb[answer.channels == 1 ? 3 * i : i];
        if (got == want) continue;
        ++others;
        const auto prob = [&](std::size_t c) { return answer.values.at(c * plane + i); };
        const bool tie = mask ? std::abs(prob(got) - prob(want)) <= 1e-4f : std::abs(got - want) <= 1;
        expect(tie, file + ": pixel " + std::to_string(i) + " is " + std::to_string(got) + ", fastai said " + std::to_string(want));
    }
    expect(static_cast<std::size_t>(others) <= plane / 1000, file + ": " + std::to_string(others) + " pixels differ");
    return others;
}

// Points are in pixels of what the net sees in golden.json, -1 to 1 in the net's output: the first become the second.
void compare_points(const Answer& answer, std::vector<double>& said, double height, double width, const std::string& file) {
    const auto& w = answer.window;
    expect(said.size() == 2 * answer.points.size(), file + ": how many points");
    for (std::size_t i = 0; i < answer.points.size(); ++i) {
        const double x = w.left + said[2 * i] / width * w.width, y = w.top + said[2 * i + 1] / height * w.height;
        const double off = std::max(std::abs(x - static_cast<double>(answer.points[i].x)),
                                    std::abs(y - static_cast<double>(answer.points[i].y)));
        expect(off <= 1e-3, file + ": point " + std::to_string(i) + " is off by " + std::to_string(off));
        said[2 * i] = 2 * said[2 * i] / width - 1;
        said[2 * i + 1] = 2 * said[2 * i + 1] / height - 1;
    }
}

void goldens(const fs::path& folder, const fs::path& list) {
    fastai_deploy::Bundle bundle(folder);
    const auto& task = bundle.task();
    const bool mask = task == "segmentation", image = task == "image_to_image";
    std::ifstream stream(list);
    std::string size, file, label, to, numbers;
    std::getline(stream, size);
    double height = 0, width = 0;
    std::istringstream(size) >> height >> width;
    int count = 0, others = 0;
    double worst = 0;
    while (std::getline(stream, file) && std::getline(stream, label) && std::getline(stream, to) && std::getline(stream, numbers)) {
        const auto picture = read_picture(folder / "golden" / fs::u8path(file), bundle.max_pixels());
        const auto answer = bundle.predict(picture.rgb.data(), picture.width, picture.height);
        std::string got;
        for (const auto& l : answer.labels) got += (got.empty() ? "" : "; ") + l;
        expect(got == label, file + ": '" + got + "', fastai said '" + label + "'");
        std::vector<double> wanted;
        std::istringstream words(numbers);
        for (double n; words >> n;) wanted.push_back(n);
        if (mask || image)
            others += compare_pixels(answer, read_picture(folder / "golden" / fs::u8path(to), bundle.max_pixels()), mask, file);
        if (task == "points") compare_points(answer, wanted, height, width, file);
        const auto values = mask || image ? sample(answer.values) : answer.values;
        expect(wanted.size() == values.size(), file + ": " + std::to_string(values.size()) +
               " numbers, fastai gave " + std::to_string(wanted.size()));
        for (std::size_t i = 0; i < std::min(wanted.size(), values.size()); ++i) {
            const double off = std::abs(wanted[i] - static_cast<double>(values[i])), most = image ? 10 * tolerance : tolerance;
            expect(off <= most * std::max(1.0, std::abs(wanted[i])), file + ": number " + std::to_string(i) + " is off by " + std::to_string(off));
            worst = std::max(worst, off);
        }
        ++count;
    }
    expect(count > 0, "no goldens");
    std::printf("%d goldens, largest difference %.1e", count, worst);
    std::printf(mask || image ? ", %d pixels differ\n" : "\n", others);
}

void mask() {
    Answer answer;
    answer.pixels = {0, 1, 1, 0};
    answer.height = answer.width = 2;
    answer.window = {-1, 1, 3, 2};
    expect(original_mask(answer, 4, 2) == Bytes{255, 1, 0, 255, 255, 1, 0, 255}, "a mask at the size of its image");
    answer.pixels[0] = 255;
    try {
        original_mask(answer, 4, 2);
        expect(false, "a mask with class 255 was taken");
    } catch (const std::runtime_error&) {}
}

// ------------------------------------------------------------------------- pictures, made here with the libraries

Bytes noise(std::size_t count) {  // the same each time
    Bytes bytes(count);
    std::uint32_t state = 1;
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
    return bytes;
}

Bytes jpeg(int width, int height, J_COLOR_SPACE space, bool progressive = false) {
    const int channels = space == JCS_GRAYSCALE ? 1 : space == JCS_CMYK ? 4 : 3;
    Bytes pixels = noise(static_cast<std::size_t>(width * height * channels));
    jpeg_compress_struct info{};
    jpeg_error_mgr errors{};
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&info, &data, &size);
    info.image_width = static_cast<JDIMENSION>(width);
    info.image_height = static_cast<JDIMENSION>(height);
    info.input_components = channels;
    info.in_color_space = space;
    jpeg_set_defaults(&info);
    if (progressive) jpeg_simple_progression(&info);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
        JSAMPROW row = pixels.data() + static_cast<std::size_t>(width * channels) * info.next_scanline;
        jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    Bytes bytes(data, data + size);
    std::free(data);
    return bytes;
}

// format: PNG_FORMAT_RGB, _RGBA, _GRAY, _GA, _LINEAR_Y (16 bits), or _RGB_COLORMAP with a palette of 256
Bytes png(int width, int height, png_uint_32 format, const Bytes& pixels, const Bytes& palette = {}) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(width);
    image.height = static_cast<png_uint_32>(height);
    image.format = format;
    image.colormap_entries = static_cast<png_uint_32>(palette.size() / 3);
    Bytes bytes(1 << 20);
    png_alloc_size_t size = bytes.size();
    if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, palette.data()))
        throw std::runtime_error(image.message);
    bytes.resize(size);
    return bytes;
}

// ------------------------------------------------------------------------------------------------- decoding

constexpr std::uint64_t plenty = 1000000;

// The message of the refusal, "" if the picture was taken.
std::string refusal(const Bytes& bytes, std::uint64_t max_pixels = plenty) {
    try {
        decode_picture(bytes, max_pixels);
        return "";
    } catch (const std::exception& error) {
        return error.what();
    }
}

void expect_refusal(const std::string& what, const Bytes& bytes, const std::string& words, std::uint64_t most = plenty) {
    const auto got = refusal(bytes, most);
    expect(got.find(words) != std::string::npos, what + ": '" + got + "', not '" + words + "'");
}

void every_cut_is_refused(const std::string& what, const Bytes& whole) {
    expect(refusal(whole).empty(), what + ": " + refusal(whole));
    for (std::size_t n = 0; n < whole.size(); ++n)
        expect(!refusal(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n))).empty(),
               what + " cut to " + std::to_string(n) + " of " + std::to_string(whole.size()) + " bytes was taken");
}

void decode(const fs::path& tests) {
    // pillow.png is what Pillow makes of pillow.jpg, a JPEG with half the colour resolution
    expect(read_picture(tests / "pillow.jpg", plenty).rgb == read_picture(tests / "pillow.png", plenty).rgb,
           "a JPEG is not decoded to Pillow's levels");

    constexpr int w = 37, h = 21;
    constexpr std::size_t n = w * h;

    // PNG is lossless: the very same levels come back
    const auto rgb = noise(n * 3), grey = noise(n), palette = noise(256 * 3);
    const auto same = [&](const std::string& what, const Bytes& file, const std::function<int(std::size_t)>& level) {
        const auto picture = decode_picture(file, plenty);
        expect(picture.width == w && picture.height == h && picture.rgb.size() == n * 3, what + ": size");
        for (std::size_t i = 0; i < n * 3; ++i)
            if (picture.rgb[i] != level(i)) return expect(false, what + ": level " + std::to_string(i));
    };
    Bytes rgba, ga;
    for (std::size_t i = 0; i < n; ++i) {
        rgba.insert(rgba.end(), {rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], static_cast<std::uint8_t>(i)});
        ga.insert(ga.end(), {grey[i], static_cast<std::uint8_t>(i)});
    }
    same("RGB", png(w, h, PNG_FORMAT_RGB, rgb), [&](std::size_t i) { return rgb[i]; });
    same("RGBA", png(w, h, PNG_FORMAT_RGBA, rgba), [&](std::size_t i) { return rgb[i]; });  // alpha dropped
    same("grey", png(w, h, PNG_FORMAT_GRAY, grey), [&](std::size_t i) { return grey[i / 3]; });
    same("grey + alpha", png(w, h, PNG_FORMAT_GA, ga), [&](std::size_t i) { return grey[i / 3]; });
    same("palette", png(w, h, PNG_FORMAT_RGB_COLORMAP, grey, palette),
         [&](std::size_t i) { return palette[grey[i / 3] * std::size_t{3} + i % 3]; });

    same("RGB, by encode_png", encode_png(rgb, w, h, 3), [&](std::size_t i) { return rgb[i]; });
    same("grey, by encode_png", encode_png(grey, w, h, 1), [&](std::size_t i) { return grey[i / 3]; });

    every_cut_is_refused("JPEG", jpeg(w, h, JCS_RGB));
    every_cut_is_refused("progressive JPEG", jpeg(w, h, JCS_RGB, true));
    every_cut_is_refused("grey JPEG", jpeg(w, h, JCS_GRAYSCALE));
    every_cut_is_refused("PNG", png(w, h, PNG_FORMAT_RGB, rgb));

    // damage: a PNG has a checksum of everything; a JPEG has none, it must only not crash
    const auto good = png(w, h, PNG_FORMAT_RGB, rgb), lossy = jpeg(w, h, JCS_RGB), scans = jpeg(w, h, JCS_RGB, true);
    for (std::size_t i = 0; i < good.size(); ++i)
        for (int bit = 0; bit < 8; ++bit) {
            auto bad = good;
            bad[i] = static_cast<std::uint8_t>(bad[i] ^ (1 << bit));
            expect(!refusal(bad).empty(), "PNG with bit " + std::to_string(bit) + " of byte " + std::to_string(i) +
                   " changed was taken");
        }
    for (const auto& whole : {lossy, scans})
        for (std::size_t i = 0; i < whole.size(); ++i)
            for (int value : {0x00, 0x7F, 0xFF}) {
                auto bad = whole;
                bad[i] = static_cast<std::uint8_t>(value);
                refusal(bad);
            }

    expect_refusal("no bytes", {}, "empty");
    expect_refusal("a text", {'h', 'e', 'l', 'l', 'o'}, "not a JPEG or PNG");
    expect_refusal("CMYK", jpeg(w, h, JCS_CMYK), "4 channels");
    expect_refusal("16-bit grey", png(w, h, PNG_FORMAT_LINEAR_Y, noise(n * 2)), "16 bits");
    // the size is told from the header: the pixels are not even there
    const auto head = [](const Bytes& b, std::ptrdiff_t count) { return Bytes(b.begin(), b.begin() + count); };
    const auto size = std::to_string(w) + " x " + std::to_string(h) + " pixels, more than 776";
    expect_refusal("large JPEG", head(lossy, static_cast<std::ptrdiff_t>(lossy.size()) - 2), size, n - 1);
    expect_refusal("large PNG", head(good, static_cast<std::ptrdiff_t>(good.size()) - 20), size, n - 1);
    expect(refusal(lossy, n).empty() && refusal(good, n).empty(), "exactly max_pixels must be taken");
}

// --------------------------------------------------------------------------------------- files for cli.cmake

void write(const fs::path& file, const Bytes& bytes) {
    fs::create_directories(file.parent_path());
    std::ofstream stream(file, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!stream.flush()) throw std::runtime_error("cannot write " + file.u8string());
}

// The few parts of ONNX's protobuf that a model with metadata needs. All lengths here fit in two bytes.
std::string field(int number, const std::string& bytes) {
    std::string length(1, static_cast<char>(bytes.size() & 0x7F));
    if (bytes.size() > 0x7F) {
        length[0] = static_cast<char>(length[0] | 0x80);
        length += static_cast<char>(bytes.size() >> 7);
    }
    return static_cast<char>(number << 3 | 2) + length + bytes;
}
std::string field(int number, int value) {
    return {static_cast<char>(number << 3), static_cast<char>(value)};
}

// A bundle whose net gives its input back.
void fake_bundle(const fs::path& folder, const std::string& format, const std::string& task) {
    const auto tensor = [](const std::string& name) {  // uint8, of any shape
        return field(1, name) + field(2, field(1, field(1, 2)));
    };
    const auto fact = [](const std::string& key, const std::string& value) {
        return field(14, field(1, key) + field(2, value));
    };
    const auto node = field(1, "picture") + field(2, "image") + field(4, "Identity");
    const auto graph = field(1, node) + field(2, "graph") + field(11, tensor("picture")) + field(12, tensor("image"));
    const auto model = field(1, 8) + field(7, graph) + field(8, field(2, 18)) + fact("format", format) +
                       fact("task", task) + fact("max_pixels", "1000") + fact("output", "image") + fact("vocab", "");
    write(folder / "pixels.onnx", Bytes(model.begin(), model.end()));
}

void make(const fs::path& folder) {
    constexpr int w = 40, h = 30;
    const auto good = jpeg(w, h, JCS_RGB);
    write(folder / "good.jpg", good);
    write(folder / fs::u8path("gr\xC3\xBC\xC3\x9F e.png"), png(w, h, PNG_FORMAT_RGB, noise(w * h * 3)));
    write(folder / "cut.jpg", Bytes(good.begin(), good.end() - 1));
    write(folder / "empty.jpg", {});
    write(folder / "text.jpg", {'h', 'i', '\n'});
    write(folder / "cmyk.jpg", jpeg(w, h, JCS_CMYK));
    auto huge = good;  // 65000 x 65000 pixels, says the header: the frame (FF C0) has height and width at bytes 5 to 8
    const Bytes frame{0xFF, 0xC0};
    const auto at = std::search(huge.begin(), huge.end(), frame.begin(), frame.end());
    for (int i : {5, 7}) at[i] = 0xFD, at[i + 1] = 0xE8;
    write(folder / "huge.jpg", huge);
    fake_bundle(folder / "mask", "fastai_deploy/1", "segmentation");
    fake_bundle(folder / "image", "fastai_deploy/1", "image_to_image");
    fake_bundle(folder / "newer", "fastai_deploy/2", "classification");
    fake_bundle(folder / "nasty", "\x1B" "c\xC2\x9B\xE2\x80\xAE\x07", "classification");
    fake_bundle(folder / "small", "fastai_deploy/1", "classification");
    write(folder / "old/model.onnx", {});
    fs::create_directories(folder / "nothing");
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    try {
        if (words.size() == 3 && words[0] == "goldens") goldens(words[1], words[2]);
        else if (words.size() == 2 && words[0] == "decode") decode(words[1]);
        else if (words.size() == 1 && words[0] == "mask") mask();
        else if (words.size() == 2 && words[0] == "make") make(words[1]);
        else throw std::runtime_error("usage: check goldens BUNDLE LIST | decode TESTS | mask | make DIR");
    } catch (const std::exception& error) {
        expect(false, error.what());
    }
    return failures ? 1 : 0;
}
