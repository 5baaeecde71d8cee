#include "picture.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it first
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>

#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

// IJG's own libjpeg 7 and newer decodes to other levels than libjpeg-turbo, which is what Pillow uses.
#ifndef LIBJPEG_TURBO_VERSION
#error "This program needs libjpeg-turbo (or mozjpeg)"
#endif

// libjpeg and libpng report an error by a callback that may not return: it leaves by longjmp to the function
// that called the library. A longjmp runs no destructors, so that function holds nothing that needs one: what
// must be freed lives in JpegReader and PngReader, which belong to the caller.

namespace {

using Bytes = std::vector<std::uint8_t>;

void check_size(std::uint64_t width, std::uint64_t height, std::uint64_t max_pixels) {
    if (width * height > max_pixels)
        throw std::runtime_error(std::to_string(width) + " x " + std::to_string(height) + " pixels, more than " +
                                 std::to_string(max_pixels));
}

Picture make_picture(std::size_t width, std::size_t height) {
    Picture picture;
    picture.width = static_cast<int>(width);
    picture.height = static_cast<int>(height);
    picture.rgb.resize(width * height * 3);
    return picture;
}

// ---------------------------------------------------------------------------------------------------- JPEG

struct JpegReader {
    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    std::jmp_buf jump;
    char message[JMSG_LENGTH_MAX] = "";

    ~JpegReader() { jpeg_destroy_decompress(&info); }
};

[[noreturn]] void jpeg_failed(j_common_ptr info) {
    auto* reader = static_cast<JpegReader*>(info->client_data);
    info->err->format_message(info, reader->message);
    std::longjmp(reader->jump, 1);
}

// libjpeg only warns of damage. Pillow lets all of it pass but one: a file that ends too early.
void jpeg_warned(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) jpeg_failed(info);
}

bool jpeg_header(JpegReader& reader, const Bytes& bytes) {
    reader.info.err = jpeg_std_error(&reader.errors);
    reader.errors.error_exit = jpeg_failed;
    reader.errors.emit_message = jpeg_warned;
    reader.info.client_data = &reader;
    if (setjmp(reader.jump)) return false;
    jpeg_create_decompress(&reader.info);
    jpeg_mem_src(&reader.info, bytes.data(), static_cast<unsigned long>(bytes.size()));
    jpeg_read_header(&reader.info, TRUE);
    return true;
}

bool jpeg_pixels(JpegReader& reader, std::uint8_t* rgb) {
    auto& info = reader.info;
    if (setjmp(reader.jump)) return false;
    info.out_color_space = JCS_RGB;      // grey becomes R = G = B
    info.dct_method = JDCT_ISLOW;        // the same as Pillow: the exact one ...
    info.do_fancy_upsampling = TRUE;     // ... and smooth colour
    jpeg_start_decompress(&info);
    const std::size_t stride = std::size_t{3} * info.output_width;
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = rgb + stride * info.output_scanline;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);       // reads up to the end marker: a file without one is refused
    return true;
}

Picture decode_jpeg(const Bytes& bytes, std::uint64_t max_pixels) {
    JpegReader reader;
    const auto damaged = [&] { return std::runtime_error(std::string("damaged JPEG: ") + reader.message); };
    if (!jpeg_header(reader, bytes)) throw damaged();
    check_size(reader.info.image_width, reader.info.image_height, max_pixels);
    if (reader.info.num_components != 1 && reader.info.num_components != 3)
        throw std::runtime_error("a JPEG of " + std::to_string(reader.info.num_components) +
                                 " channels (CMYK?) is not supported: save it as RGB");
    Picture picture = make_picture(reader.info.image_width, reader.info.image_height);
    if (!jpeg_pixels(reader, picture.rgb.data())) throw damaged();
    return picture;
}

// ----------------------------------------------------------------------------------------------------- PNG

struct PngReader {
    png_structp png = nullptr;
    png_infop info = nullptr;
    const std::uint8_t* next = nullptr;
    std::size_t left = 0;
    std::jmp_buf jump;
    char message[128] = "out of memory";

    ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void png_failed(png_structp png, png_const_charp message) {
    auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(reader->message, sizeof reader->message, "%s", message);
    std::longjmp(reader->jump, 1);
}

void png_warned(png_structp, png_const_charp) {}  // an odd colour profile, a strange text: not about the pixels

void png_more(png_structp png, png_bytep to, std::size_t count) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader->left) png_error(png, "the file ends too early");
    std::memcpy(to, reader->next, count);
    reader->next += count;
    reader->left -= count;
}

bool png_header(PngReader& reader, const Bytes& bytes) {
    reader.next = bytes.data();
    reader.left = bytes.size();
    if (setjmp(reader.jump)) return false;
    reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, png_failed, png_warned);
    if (!reader.png) return false;
    reader.info = png_create_info_struct(reader.png);
    if (!reader.info) return false;
    png_set_read_fn(reader.png, &reader, png_more);
    png_set_user_limits(reader.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);          // check_size sets the limit
    png_set_crc_action(reader.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);     // any damaged part refuses the file
    png_read_info(reader.png, reader.info);
    return true;
}

bool png_pixels(PngReader& reader, png_bytepp rows) {
    const png_structp png = reader.png;
    if (setjmp(reader.jump)) return false;
    png_set_expand(png);        // palette to RGB; grey of 1, 2 or 4 bits to 8
    png_set_strip_16(png);      // 16 bits: the upper 8, as Pillow (grey of 16 bits never comes here)
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);   // dropped, not blended
    png_set_interlace_handling(png);
    png_read_update_info(png, reader.info);
    png_read_image(png, rows);
    png_read_end(png, nullptr);
    return true;
}

Picture decode_png(const Bytes& bytes, std::uint64_t max_pixels) {
    PngReader reader;
    const auto damaged = [&] { return std::runtime_error(std::string("damaged PNG: ") + reader.message); };
    if (!png_header(reader, bytes)) throw damaged();
    const std::size_t width = png_get_image_width(reader.png, reader.info);
    const std::size_t height = png_get_image_height(reader.png, reader.info);
    check_size(width, height, max_pixels);
    // Pillow makes white of every level above 255 here: surely not what was meant.
    if (png_get_color_type(reader.png, reader.info) == PNG_COLOR_TYPE_GRAY &&
        png_get_bit_depth(reader.png, reader.info) == 16)
        throw std::runtime_error("a grey PNG of 16 bits is not supported: save it with 8 bits");
    Picture picture = make_picture(width, height);
    std::vector<png_bytep> rows(height);
    for (std::size_t y = 0; y < height; ++y) rows[y] = picture.rgb.data() + y * width * 3;
    if (!png_pixels(reader, rows.data())) throw damaged();
    return picture;
}

// The kind is told by the first bytes, not by the file's name.
bool starts_with(const Bytes& bytes, std::initializer_list<std::uint8_t> start) {
    return bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin());
}
bool is_jpeg(const Bytes& bytes) { return starts_with(bytes, {0xFF, 0xD8, 0xFF}); }
bool is_png(const Bytes& bytes) { return starts_with(bytes, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'}); }

}  // namespace

Picture decode_picture(const Bytes& bytes, std::uint64_t max_pixels) {
    if (bytes.empty()) throw std::runtime_error("an empty file");
    if (is_jpeg(bytes)) return decode_jpeg(bytes, max_pixels);
    if (is_png(bytes)) return decode_png(bytes, max_pixels);
    throw std::runtime_error("not a JPEG or PNG picture");
}

Bytes encode_png(const Bytes& pixels, int width, int height, int channels) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(width);
    image.height = static_cast<png_uint_32>(height);
    image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    Bytes bytes(PNG_IMAGE_PNG_SIZE_MAX(image));
    png_alloc_size_t size = bytes.size();
    if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, nullptr))
        throw std::runtime_error(std::string("the PNG cannot be made: ") + image.message);
    bytes.resize(size);
    return bytes;
}

Picture read_picture(const std::filesystem::path& file, std::uint64_t max_pixels) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (!std::filesystem::exists(status)) throw std::runtime_error("no such file");
    if (std::filesystem::is_directory(status)) throw std::runtime_error("a folder, not an image");
    if (!std::filesystem::is_regular_file(status)) throw std::runtime_error("not a file");  // a pipe may wait forever
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot be opened");
    Bytes bytes(8);  // enough to tell the kind: a film of some gigabytes is not read into memory
    stream.read(reinterpret_cast<char*>(bytes.data()), 8);
    bytes.resize(static_cast<std::size_t>(stream.gcount()));
    if (is_jpeg(bytes) || is_png(bytes)) {
        const auto size = std::filesystem::file_size(file, error);
        if (error || size < bytes.size()) throw std::runtime_error("cannot be read");
        const auto have = bytes.size();
        bytes.resize(static_cast<std::size_t>(size));
        stream.read(reinterpret_cast<char*>(bytes.data() + have), static_cast<std::streamsize>(size - have));
        bytes.resize(have + static_cast<std::size_t>(stream.gcount()));
    }
    if (stream.bad()) throw std::runtime_error("cannot be read");
    return decode_picture(bytes, max_pixels);
}
