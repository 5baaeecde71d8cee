// Reads JPEG and PNG files into RGB bytes, the way Pillow does for fastai: no EXIF rotation, no colour
// management, alpha dropped, grey as R = G = B.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

struct Picture {
    std::vector<std::uint8_t> rgb;  // height * width * 3, row by row
    int width = 0;
    int height = 0;
};

// Both throw std::runtime_error with a one-line message. The size is checked before anything is decoded.
Picture read_picture(const std::filesystem::path& file, std::uint64_t max_pixels);
Picture decode_picture(const std::vector<std::uint8_t>& bytes, std::uint64_t max_pixels);

// Pixels of 1 byte (grey) or 3 (R, G, B), row by row → the bytes of a PNG.
std::vector<std::uint8_t> encode_png(const std::vector<std::uint8_t>& pixels, int width, int height, int channels);
