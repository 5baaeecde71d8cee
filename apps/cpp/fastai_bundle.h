// A fastai_deploy bundle: load it, give it the RGB bytes of a picture, get the answer.
// Take this file, fastai_bundle.cpp and (if you need to read files) picture.h and picture.cpp into your program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

namespace fastai_deploy {

struct Class {
    std::string label;
    std::size_t index;  // its place in the vocab
    float prob;
};

struct Answer {
    std::vector<float> values;        // all numbers, in the model's order: probabilities, values or points
    std::vector<Class> classes;       // every class, the most probable first; empty if the answer is no class
    std::vector<std::string> labels;  // what was decided: the best class, or (multilabel) all above the threshold
};

class Bundle {
public:
    // Throws std::runtime_error (or Ort::Exception), with a message that says what is wrong.
    explicit Bundle(const std::filesystem::path& folder, const Ort::SessionOptions& options = Ort::SessionOptions());

    // rgb: height * width * 3 bytes, row by row, as decoded. Resizing and all else is inside the model.
    Answer predict(const std::uint8_t* rgb, int width, int height);

    // The model's output as it is: for tasks whose answer is a picture or a mask.
    Ort::Value run(const std::uint8_t* rgb, int width, int height);

    const std::string& task() const { return task_; }
    const std::vector<std::string>& vocab() const { return vocab_; }  // class names, in output order; may be empty
    std::uint64_t max_pixels() const { return max_pixels_; }          // larger pictures are to be refused

private:
    Ort::Session session_{nullptr};
    std::string task_, output_;
    std::vector<std::string> vocab_;
    std::uint64_t max_pixels_ = 0;
    float threshold_ = 0;
};

}  // namespace fastai_deploy
