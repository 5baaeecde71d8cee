#include "fastai_bundle.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace fastai_deploy {
namespace {

constexpr auto known_format = "fastai_deploy/1";

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

std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> all;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
}

}  // namespace

Bundle::Bundle(const std::filesystem::path& folder, const Ort::SessionOptions& options)
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
    max_pixels_ = number<std::uint64_t>(fact("max_pixels"));
    if (task_ == "multilabel") threshold_ = number<float>(fact("threshold"));
}

Ort::Value Bundle::run(const std::uint8_t* rgb, int width, int height) {
    // The resize's tables grow with the longest side; no JPEG has a longer one.
    if (std::max(width, height) > 65535) throw std::runtime_error("a side of more than 65535 pixels");
    const std::array<std::int64_t, 3> shape{height, width, 3};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto picture = Ort::Value::CreateTensor<std::uint8_t>(
        memory, const_cast<std::uint8_t*>(rgb),  // only read, not copied
        std::size_t{3} * static_cast<std::size_t>(width) * static_cast<std::size_t>(height), shape.data(), shape.size());
    const char* input = "picture";
    const char* output = output_.c_str();
    return std::move(session_.Run(Ort::RunOptions{nullptr}, &input, &picture, 1, &output, 1).front());
}

Answer Bundle::predict(const std::uint8_t* rgb, int width, int height) {
    const auto output = run(rgb, width, height);
    const auto facts = output.GetTensorTypeAndShapeInfo();
    if (facts.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
        throw std::runtime_error("the answer of a " + task_ + " model is no list of numbers: use run()");
    const auto* first = output.GetTensorData<float>();
    Answer answer;
    answer.values.assign(first, first + facts.GetElementCount());
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

}  // namespace fastai_deploy
