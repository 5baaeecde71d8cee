// A fastai_deploy bundle: load it, give it the RGB bytes of a picture, get the answer.
// Take this file, fastai_bundle.cpp and (if you need to read files) picture.h and picture.cpp into your program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

namespace fastai_deploy {

constexpr std::uint64_t largest_max_pixels = 500000000;

struct Class {
    std::string label;
    std::size_t index;  // its place in the vocab
    float prob;
};

struct Share {
    std::string label;
    double share;  // of the mask's pixels, 0 to 1
};

struct Point {
    float x, y;  // in pixels of the image
};

struct Window {  // what the net saw, in pixels of the image; it may stick out
    double top, left, height, width;
};

struct Answer {
    std::vector<float> values;        // all numbers of the output, in the model's order
    std::vector<Class> classes;       // classification, multilabel: every class, the most probable first
    std::vector<std::string> labels;  // what was decided: the best class, or (multilabel) all above the threshold
    std::vector<Point> points;        // points
    std::vector<std::uint8_t> pixels; // segmentation: a class number for each pixel, row by row; image_to_image: bytes
    int height = 0, width = 0, channels = 0;  // of `pixels`; image_to_image has 1 channel (grey) or 3 (R, G, B)
    std::vector<Share> shares;        // segmentation: what each class covers, the largest first; without those of 0
    Window window{};                  // points, segmentation, image_to_image
};

// segmentation: the mask at the size of the image itself; 255 where the net did not look.
std::vector<std::uint8_t> original_mask(const Answer& answer, int width, int height);

class Bundle {
public:
    // Throws std::runtime_error (or Ort::Exception), with a message that says what is wrong.
    // max_pixels: a limit of your own, up to largest_max_pixels, in place of the bundle's.
    explicit Bundle(const std::filesystem::path& folder, const Ort::SessionOptions& options = Ort::SessionOptions(),
                    std::optional<std::uint64_t> max_pixels = std::nullopt);

    // rgb: height * width * 3 bytes, row by row, as decoded. Resizing and all else is inside the model.
    Answer predict(const std::uint8_t* rgb, int width, int height);

    // The model's output as it is, not copied.
    Ort::Value run(const std::uint8_t* rgb, int width, int height);

    const std::string& task() const { return task_; }
    const std::vector<std::string>& vocab() const { return vocab_; }  // class names, in output order; may be empty
    std::uint64_t max_pixels() const { return max_pixels_; }          // larger pictures are to be refused

private:
    std::vector<Ort::Value> run(const std::uint8_t* rgb, int width, int height, const std::vector<const char*>& names);
    void read(Answer& answer, const Ort::Value& decoded, const Ort::Value& window) const;

    Ort::Session session_{nullptr};
    std::string task_, output_, decoded_;
    std::vector<std::string> vocab_;
    std::uint64_t max_pixels_ = 0;
    float threshold_ = 0;
};

}  // namespace fastai_deploy
