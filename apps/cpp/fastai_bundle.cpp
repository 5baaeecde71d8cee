#include "fastai_bundle.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace fastai_deploy {
namespace {

constexpr auto known_format = "fastai_deploy/1";
constexpr std::uint8_t outside = 255;  // the class number where the net did not look

// What these tasks answer is decoded in the graph: the name of that output.
std::string decoded_name(const std::string& task) {
    return task == "points" ? "places" : task == "segmentation" ? "mask" : task == "image_to_image" ? "levels" : "";
}

Ort::Env& environment() {  // ONNX Runtime wants one for the whole process
#ifndef _WIN32
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // since 1.29 it reports usage to its makers otherwise
#endif
    static Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "fastai_deploy");
    return env;
}

Ort::Session load(const std::filesystem::path& folder, const Ort::SessionOptions& options) {
    const auto model = folder / "pixels.onnx";
    if (!std::filesystem::is_directory(folder)) throw std::runtime_error("no bundle there");
    if (!std::filesystem::exists(model)) {
        if (std::filesystem::exists(folder / "model.onnx"))
            throw std::runtime_error("a bundle without pixels.onnx: export it again "
                                     "(its model.onnx needs the item transforms, which this program does not have)");
        throw std::runtime_error("no bundle there: no pixels.onnx");
    }
    return Ort::Session(environment(), model.c_str(), options);
}

template <class T>
T number(const std::string& text) {  // never a decimal comma, whatever the program's locale
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    T value{};
    if (!(stream >> value)) throw std::runtime_error("'" + text + "' in pixels.onnx is not a number");
    return value;
}

template <class T>
std::vector<T> numbers(const Ort::Value& output, ONNXTensorElementDataType type) {
    const auto facts = output.GetTensorTypeAndShapeInfo();
    if (facts.GetElementType() != type) throw std::runtime_error("an output of pixels.onnx has another type than it should");
    const auto* first = output.GetTensorData<T>();
    return std::vector<T>(first, first + facts.GetElementCount());
}

std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> all;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
}

}  // namespace

Bundle::Bundle(const std::filesystem::path& folder, const Ort::SessionOptions& options,
               std::optional<std::uint64_t> max_pixels)
    : session_(load(folder, options)) {
    const auto metadata = session_.GetModelMetadata();
    Ort::AllocatorWithDefaultOptions allocator;
    const auto fact = [&](const char* key) -> std::string {
        const auto value = metadata.LookupCustomMetadataMapAllocated(key, allocator);
        return value ? value.get() : "";
    };
    const auto format = fact("format");
    if (format != known_format)
        throw std::runtime_error("pixels.onnx is of format '" + format + "', this program reads " + known_format);
    task_ = fact("task");
    output_ = fact("output");
    vocab_ = lines(fact("vocab"));
    decoded_ = decoded_name(task_);
    max_pixels_ = max_pixels ? *max_pixels : number<std::uint64_t>(fact("max_pixels"));
    if (max_pixels && (*max_pixels < 1 || *max_pixels > largest_max_pixels))
        throw std::runtime_error("max_pixels must be from 1 to " + std::to_string(largest_max_pixels));
    if (task_ == "multilabel") threshold_ = number<float>(fact("threshold"));

    std::vector<std::string> have;
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i)
        have.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    for (const auto& name : {output_, decoded_, std::string(decoded_.empty() ? "" : "window")})
        if (!name.empty() && std::find(have.begin(), have.end(), name) == have.end())
            throw std::runtime_error("pixels.onnx has no output " + name + ": export the bundle again");
}

std::vector<Ort::Value> Bundle::run(const std::uint8_t* rgb, int width, int height,
                                    const std::vector<const char*>& names) {
    // The resize's tables grow with the longest side; no JPEG has a longer one.
    if (std::max(width, height) > 65535) throw std::runtime_error("a side of more than 65535 pixels");
    const std::array<std::int64_t, 3> shape{height, width, 3};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto picture = Ort::Value::CreateTensor<std::uint8_t>(
        memory, const_cast<std::uint8_t*>(rgb),  // only read, not copied
        std::size_t{3} * static_cast<std::size_t>(width) * static_cast<std::size_t>(height), shape.data(), shape.size());
    const char* input = "picture";
    return session_.Run(Ort::RunOptions{nullptr}, &input, &picture, 1, names.data(), names.size());
}

Ort::Value Bundle::run(const std::uint8_t* rgb, int width, int height) {
    return std::move(run(rgb, width, height, {output_.c_str()}).front());
}

Answer Bundle::predict(const std::uint8_t* rgb, int width, int height) {
    std::vector<const char*> names{output_.c_str()};
    if (!decoded_.empty()) names = {output_.c_str(), decoded_.c_str(), "window"};
    const auto outputs = run(rgb, width, height, names);
    Answer answer;
    answer.values = numbers<float>(outputs[0], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    if (!std::all_of(answer.values.begin(), answer.values.end(), [](float v) { return std::isfinite(v); }))
        throw std::runtime_error("the net answers NaN or infinity: its weights are broken");
    if (!decoded_.empty()) read(answer, outputs[1], outputs[2]);
    if (task_ != "classification" && task_ != "multilabel") return answer;

    if (vocab_.size() != answer.values.size()) throw std::runtime_error("the vocab does not fit the model's output");
    for (std::size_t i = 0; i < vocab_.size(); ++i) {
        answer.classes.push_back({vocab_[i], i, answer.values[i]});
        if (task_ == "multilabel" && answer.values[i] > threshold_) answer.labels.push_back(vocab_[i]);
    }
    std::stable_sort(answer.classes.begin(), answer.classes.end(),
                     [](const Class& a, const Class& b) { return a.prob > b.prob; });
    if (task_ == "classification") answer.labels.push_back(answer.classes.front().label);
    return answer;
}

void Bundle::read(Answer& answer, const Ort::Value& decoded, const Ort::Value& window) const {
    const auto sides = numbers<double>(window, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
    const auto shape = decoded.GetTensorTypeAndShapeInfo().GetShape();
    const bool image = task_ == "image_to_image";
    if (sides.size() != 4 || shape.size() != (image ? 3u : 2u) || (image && shape[2] != 1 && shape[2] != 3))
        throw std::runtime_error("pixels.onnx answers in another shape than a " + task_ + " model does");
    answer.window = {sides[0], sides[1], sides[2], sides[3]};
    if (task_ == "points") {
        const auto places = numbers<float>(decoded, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
        for (std::size_t i = 0; i + 1 < places.size(); i += 2) answer.points.push_back({places[i], places[i + 1]});
        return;
    }
    answer.pixels = numbers<std::uint8_t>(decoded, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
    answer.height = static_cast<int>(shape[0]);
    answer.width = static_cast<int>(shape[1]);
    answer.channels = image ? static_cast<int>(shape[2]) : 1;
    if (task_ != "segmentation") return;

    std::array<std::size_t, 256> counts{};
    for (const auto c : answer.pixels) ++counts[c];
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] == 0) continue;
        if (i >= vocab_.size()) throw std::runtime_error("the mask has a class that the vocab has not");
        answer.shares.push_back({vocab_[i], static_cast<double>(counts[i]) / static_cast<double>(answer.pixels.size())});
    }
    std::stable_sort(answer.shares.begin(), answer.shares.end(),
                     [](const Share& a, const Share& b) { return a.share > b.share; });
}

std::vector<std::uint8_t> original_mask(const Answer& answer, int width, int height) {
    if (std::find(answer.pixels.begin(), answer.pixels.end(), outside) != answer.pixels.end())
        throw std::runtime_error("class 255 is in the mask: it cannot mean outside");
    const auto from = [](int n, double start, double length, int m) {  // for each pixel, that of the mask; -1: none
        std::vector<int> places;
        for (int i = 0; i < n; ++i) {
            const double place = std::floor((i + .5 - start) * m / length);
            places.push_back(place >= 0 && place < m ? static_cast<int>(place) : -1);
        }
        return places;
    };
    const auto ys = from(height, answer.window.top, answer.window.height, answer.height);
    const auto xs = from(width, answer.window.left, answer.window.width, answer.width);
    std::vector<std::uint8_t> mask;
    mask.reserve(ys.size() * xs.size());
    for (const int y : ys)
        for (const int x : xs)
            mask.push_back(y < 0 || x < 0 ? outside : answer.pixels[static_cast<std::size_t>(y) * answer.width + x]);
    return mask;
}

}  // namespace fastai_deploy
