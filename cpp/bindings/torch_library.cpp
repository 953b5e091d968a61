// The operators torch.ops.bert_op.*: functional, on plain tensors. The only file that knows torch.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <pthread.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <limits>
#include <optional>
#include <utility>

#include "bindings/info.h"
#include "bindings/recording.h"
#include "encoder/arena.h"
#include "encoder/encoder.h"
#include "encoder/pack.h"
#include "encoder/threads.h"
#include "encoder/workspace.h"

namespace {

using namespace bert_op;

constexpr int64_t kTensorsPerLayer = 16;
constexpr int64_t kFactorsPerLayer = 8;
constexpr const char* kTensorNames[kTensorsPerLayer] = {"attention.self.query.weight",
                                                        "attention.self.query.bias",
                                                        "attention.self.key.weight",
                                                        "attention.self.key.bias",
                                                        "attention.self.value.weight",
                                                        "attention.self.value.bias",
                                                        "attention.output.dense.weight",
                                                        "attention.output.dense.bias",
                                                        "attention.output.LayerNorm.weight",
                                                        "attention.output.LayerNorm.bias",
                                                        "intermediate.dense.weight",
                                                        "intermediate.dense.bias",
                                                        "output.dense.weight",
                                                        "output.dense.bias",
                                                        "output.LayerNorm.weight",
                                                        "output.LayerNorm.bias"};

// The core throws standard exceptions; users see a RuntimeError of one line.
template <class Function>
auto with_torch_errors(Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const c10::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    TORCH_CHECK(false, "bert_op: out of memory");
  } catch (const std::exception& error) {
    TORCH_CHECK(false, "bert_op: ", error.what());
  }
}

std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "(";
  for (std::size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + ")";
}

// Tensors that claim to be on the CPU may still have no memory: fake tensors and those of zeros that are never written.
const void* data_of(const at::Tensor& tensor, const char* name) {
  const void* data = tensor.const_data_ptr();
  TORCH_CHECK(data != nullptr || tensor.numel() == 0, "bert_op: ", name,
              " has no data: it is a fake tensor, or one of zeros without memory");
  return data;
}

std::string tensor_name(int64_t layer, int64_t index) {
  return "layer." + std::to_string(layer) + "." + kTensorNames[index];
}

// ---- prepack ---------------------------------------------------------------------------------------------------------

ModelShape shape_of(at::TensorList weights, int64_t num_heads, c10::string_view hidden_act, double layer_norm_eps,
                    c10::string_view precision, at::ArrayRef<double> factors) {
  const auto count = static_cast<int64_t>(weights.size());
  TORCH_CHECK(count > 0 && count % kTensorsPerLayer == 0,
              "bert_op::prepack: weights must have 16 tensors for each layer, got ", count);
  const int64_t layers = count / kTensorsPerLayer;
  TORCH_CHECK(weights[0].dim() == 2 && weights[10].dim() == 2, "bert_op::prepack: ", tensor_name(0, 0), " and ",
              tensor_name(0, 10), " must be matrices");
  ModelShape shape{.precision = parse_precision(std::string(precision)),
                   .activation = parse_activation(std::string(hidden_act)),
                   .num_layers = layers,
                   .hidden_size = weights[0].size(1),
                   .num_heads = num_heads,
                   .intermediate_size = weights[10].size(0),
                   .layer_norm_eps = static_cast<float>(layer_norm_eps),
                   .static_quantization =
                       !factors.empty() && linear_type(parse_precision(std::string(precision))) == ElementType::u8};
  check_shape(shape);
  TORCH_CHECK(factors.empty() || static_cast<int64_t>(factors.size()) == layers * kFactorsPerLayer,
              "bert_op::prepack: quantization_factors must be empty or have 8 numbers for each of the ", layers,
              " layers (min, max of the inputs of QKV, attention output, intermediate, output), got ", factors.size());
  for (std::size_t i = 0; i + 1 < factors.size(); i += 2) {
    const auto low = static_cast<float>(factors[i]), high = static_cast<float>(factors[i + 1]);
    TORCH_CHECK(std::isfinite(high - low) && factors[i] <= factors[i + 1], "bert_op::prepack: quantization_factors[", i,
                "] and [", i + 1, "] are ", factors[i], " and ", factors[i + 1],
                ": each pair must be a minimum and a maximum not below it, finite in fp32");
  }
  const int64_t h = shape.hidden_size, f = shape.intermediate_size;
  const std::vector<std::vector<int64_t>> expected = {{h, h}, {h}, {h, h}, {h}, {h, h}, {h}, {h, h}, {h},
                                                      {h},    {h}, {f, h}, {f}, {h, f}, {h}, {h},    {h}};
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& weight = weights[i];
    const auto& sizes = expected[i % kTensorsPerLayer];
    TORCH_CHECK(weight.sizes() == at::IntArrayRef(sizes),
                "bert_op::prepack: ", tensor_name(i / kTensorsPerLayer, i % kTensorsPerLayer), " has shape ",
                shape_text(weight.sizes()), ", expected ", shape_text(sizes));
    TORCH_CHECK(weight.is_floating_point(),
                "bert_op::prepack: ", tensor_name(i / kTensorsPerLayer, i % kTensorsPerLayer),
                " must be of a floating-point dtype, not ", weight.scalar_type());
  }
  return shape;
}

bool all_finite(const at::Tensor& tensor) {
  const auto* data = static_cast<const float*>(data_of(tensor, "a weight"));
  float poison = 0.0f;
  for (int64_t i = 0; i < tensor.numel(); ++i) poison += data[i] * 0.0f;
  return poison == 0.0f;
}

// Parameters as contiguous fp32; the tensors keep the memory alive.
void pack_one_layer(const ModelShape& shape, std::byte* arena, int64_t index, at::TensorList weights,
                    at::ArrayRef<double> factors) {
  std::vector<at::Tensor> held;
  const float* data[kTensorsPerLayer];
  for (int64_t i = 0; i < kTensorsPerLayer; ++i) {
    held.push_back(weights[index * kTensorsPerLayer + i].detach().to(at::kFloat).contiguous());
    TORCH_CHECK(all_finite(held.back()), "bert_op::prepack: ", tensor_name(index, i),
                " contains NaN or infinity: the checkpoint is damaged or its training diverged");
    data[i] = held.back().const_data_ptr<float>();
  }
  const LayerParameters parameters{data[0], data[1], data[2],  data[3],  data[4],  data[5],  data[6],  data[7],
                                   data[8], data[9], data[10], data[11], data[12], data[13], data[14], data[15]};
  float ranges[kFactorsPerLayer];
  if (shape.static_quantization) {
    for (int64_t i = 0; i < kFactorsPerLayer; ++i)
      ranges[i] = static_cast<float>(factors[index * kFactorsPerLayer + i]);
  }
  pack_layer(layer_view(shape, arena, index), parameters, shape.static_quantization ? ranges : nullptr);
}

std::vector<at::Tensor> prepack(at::TensorList weights, int64_t num_heads, c10::string_view hidden_act,
                                double layer_norm_eps, c10::string_view precision, at::ArrayRef<double> factors) {
  return with_torch_errors([&] {
    const ModelShape shape = shape_of(weights, num_heads, hidden_act, layer_norm_eps, precision, factors);
    for (const at::Tensor& weight : weights) {
      TORCH_CHECK(weight.device().is_cpu(), "bert_op::prepack: weights must be on the CPU, not on ", weight.device());
    }
    const std::size_t bytes = arena_bytes(shape);
    std::byte* arena = allocate_huge(bytes);
    at::Tensor packed = at::from_blob(
        arena, {static_cast<int64_t>(bytes)}, [](void* memory) { free_huge(static_cast<std::byte*>(memory)); },
        at::kByte);
    std::memset(arena, 0, bytes);
    write_head(arena, shape);
    std::atomic<int64_t> next{0};
    const auto pack_all = [&, threads = at::get_num_threads()] {
      run_parallel(threads, [&](int, int) {
        const at::AutoDispatchBelowADInplaceOrView guard;
        for (int64_t index = next++; index < shape.num_layers; index = next++) {
          pack_one_layer(shape, arena, index, weights, factors);
        }
      });
    };
    // By a thread of its own, with which its OpenMP pool ends: who only loads a model may fork and use threads after.
    std::async(std::launch::async, pack_all).get();
    return std::vector<at::Tensor>{packed};
  });
}

std::vector<at::Tensor> prepack_meta(at::TensorList weights, int64_t num_heads, c10::string_view hidden_act,
                                     double layer_norm_eps, c10::string_view precision, at::ArrayRef<double> factors) {
  return with_torch_errors([&] {
    const ModelShape shape = shape_of(weights, num_heads, hidden_act, layer_norm_eps, precision, factors);
    for (const at::Tensor& weight : weights) {
      TORCH_CHECK(weight.is_meta(), "bert_op::prepack: weights must all be on one device, but are on meta and on ",
                  weight.device());
    }
    return std::vector<at::Tensor>{
        at::empty({static_cast<int64_t>(arena_bytes(shape))}, at::TensorOptions(at::kByte).device(at::kMeta))};
  });
}

// ---- encoder ---------------------------------------------------------------------------------------------------------

// Consecutive layers of one precision.
struct Segment {
  const std::byte* arena;
  ModelShape shape;
  int64_t bytes;
};

// A packed model is one or more segments that run one after the other.
std::vector<Segment> segments_of(at::TensorList packed) {
  TORCH_CHECK(packed.size() > 0, "bert_op: packed is empty: give the results of bert_op::prepack");
  std::vector<Segment> segments;
  for (const at::Tensor& tensor : packed) {
    TORCH_CHECK(
        tensor.scalar_type() == at::kByte && tensor.dim() == 1 && tensor.is_contiguous() && tensor.device().is_cpu(),
        "bert_op: packed must be results of bert_op::prepack: a list of 1-D contiguous uint8 CPU tensors");
    const auto* arena = static_cast<const std::byte*>(data_of(tensor, "packed"));
    // Kernels read at any address of a float. 64 bytes, as torch allocates, are faster, but AOTInductor gives 16.
    TORCH_CHECK(reinterpret_cast<std::uintptr_t>(arena) % alignof(float) == 0, "bert_op: packed must be aligned to ",
                alignof(float), " bytes: give packed.clone()");
    segments.push_back({arena, read_head(arena, static_cast<std::size_t>(tensor.numel())), tensor.numel()});
    const ModelShape& first = segments.front().shape;
    const ModelShape& shape = segments.back().shape;
    TORCH_CHECK(shape.hidden_size == first.hidden_size && shape.num_heads == first.num_heads, "bert_op: packed[",
                segments.size() - 1, "] has hidden_size ", shape.hidden_size, " and ", shape.num_heads,
                " heads, but packed[0] has ", first.hidden_size, " and ", first.num_heads,
                ": they are not layers of one model");
  }
  return segments;
}

// True when every query row of a (B, heads, S, S) mask is like the first.
bool rows_alike(const at::Tensor& mask) {
  if (mask.stride(3) != 1) return false;
  const auto* base = static_cast<const char*>(data_of(mask, "attention_mask"));
  const auto item = static_cast<int64_t>(mask.element_size());
  const auto row_bytes = static_cast<std::size_t>(mask.size(3) * item);
  for (int64_t b = 0; b < mask.size(0); ++b) {
    for (int64_t head = 0; head < mask.size(1); ++head) {
      const char* first = base + (b * mask.stride(0) + head * mask.stride(1)) * item;
      for (int64_t row = 1; row < mask.size(2); ++row) {
        if (std::memcmp(first, first + row * mask.stride(2) * item, row_bytes) != 0) return false;
      }
    }
  }
  return true;
}

at::Tensor additive_from_attended(const at::Tensor& attended) {
  return at::zeros(attended.sizes(), at::kFloat)
      .masked_fill_(attended.logical_not(), -std::numeric_limits<float>::infinity());
}

// Any accepted form as fp32 added to the scores, (B|1, heads|1, S|1, S), broadcast dimensions kept at size 1.
at::Tensor additive_mask(const at::Tensor& mask, int64_t batch, int64_t heads, int64_t seq_len) {
  TORCH_CHECK(mask.device().is_cpu(), "bert_op::encoder: attention_mask must be on the CPU, not on ", mask.device());
  const auto fits = [](int64_t size, int64_t full) { return size == 1 || size == full; };
  if (mask.dim() == 2 && fits(mask.size(0), batch) && mask.size(1) == seq_len) {
    return additive_from_attended(mask.ne(0)).view({mask.size(0), 1, 1, seq_len});
  }
  TORCH_CHECK(mask.dim() == 4 && fits(mask.size(0), batch) && fits(mask.size(1), heads) &&
                  fits(mask.size(2), seq_len) && mask.size(3) == seq_len,
              "bert_op::encoder: attention_mask has shape ", shape_text(mask.sizes()), ", expected ",
              shape_text({batch, seq_len}), " or ", shape_text({batch, 1, seq_len, seq_len}),
              ", where batch, heads and queries may be 1");
  TORCH_CHECK(mask.scalar_type() == at::kBool || mask.is_floating_point(),
              "bert_op::encoder: a 4-D attention_mask must be bool (True = attend) or floating-point (added to the "
              "scores), not ",
              mask.scalar_type());
  at::Tensor narrow = mask;
  for (int64_t dim = 0; dim < 3; ++dim) {
    if (narrow.size(dim) > 1 && narrow.stride(dim) == 0) narrow = narrow.narrow(dim, 0, 1);
  }
  if (narrow.size(2) > 1 && rows_alike(narrow)) narrow = narrow.narrow(2, 0, 1);
  return mask.scalar_type() == at::kBool ? additive_from_attended(narrow) : narrow.to(at::kFloat).contiguous();
}

void check_hidden_states(const at::Tensor& hidden_states) {
  TORCH_CHECK(hidden_states.dim() == 3, "bert_op::encoder: hidden_states must be (batch, seq_len, hidden_size), got ",
              hidden_states.dim(), " dimensions");
  const at::ScalarType type = hidden_states.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf,
              "bert_op::encoder: hidden_states must be float32, bfloat16 or float16, not ", type);
}

// `profiles`, if given, get one for each segment.
at::Tensor run(const at::Tensor& hidden_states, const std::optional<at::Tensor>& attention_mask, at::TensorList packed,
               bool skip_padding, std::vector<SegmentProfile>* profiles) {
  check_hidden_states(hidden_states);
  TORCH_CHECK(hidden_states.device().is_cpu(), "bert_op::encoder: hidden_states must be on the CPU, not on ",
              hidden_states.device());
  const std::vector<Segment> segments = segments_of(packed);
  const ModelShape& shape = segments.front().shape;
  const int64_t batch = hidden_states.size(0), seq_len = hidden_states.size(1);
  TORCH_CHECK(hidden_states.size(2) == shape.hidden_size, "bert_op::encoder: hidden_states has shape ",
              shape_text(hidden_states.sizes()), ", but the packed model's hidden_size is ", shape.hidden_size);
  at::Tensor mask_tensor;
  Mask mask;
  if (attention_mask.has_value() && attention_mask->defined()) {
    mask_tensor = additive_mask(*attention_mask, batch, shape.num_heads, seq_len);
    const auto stride = [&](int64_t dim) { return mask_tensor.size(dim) == 1 ? int64_t{0} : mask_tensor.stride(dim); };
    mask = {static_cast<const float*>(data_of(mask_tensor, "attention_mask")), stride(0), stride(1), stride(2)};
  }
  if (hidden_states.numel() == 0) return at::empty(hidden_states.sizes(), hidden_states.options());
  at::Tensor input, result = hidden_states.to(at::kFloat).contiguous();
  for (const Segment& segment : segments) {  // between them the rows stay in fp32
    input = result;
    result = at::empty(hidden_states.sizes(), at::kFloat);
    data_of(result, "result");  // under a mode that makes fake tensors it has none
    SegmentProfile measured{segment.shape.precision, {}};
    run_encoder({.arena = segment.arena,
                 .shape = segment.shape,
                 .hidden_states = static_cast<const float*>(data_of(input, "hidden_states")),
                 .result = result.mutable_data_ptr<float>(),
                 .batch = batch,
                 .seq_len = seq_len,
                 .mask = mask,
                 .skip_padding = skip_padding,
                 .threads = at::get_num_threads(),
                 .isa = active_isa(),
                 .profile = profiles == nullptr ? nullptr : &measured.profile});
    if (profiles != nullptr) profiles->push_back(measured);
  }
  return result.to(hidden_states.scalar_type());
}

// Between start_profile and stop_profile: what this thread's calls took. It changes no result.
thread_local std::optional<Recording> recording;

at::Tensor encoder(const at::Tensor& hidden_states, const std::optional<at::Tensor>& attention_mask,
                   at::TensorList packed, bool skip_padding) {
  return with_torch_errors([&] {
    if (!recording.has_value()) return run(hidden_states, attention_mask, packed, skip_padding, nullptr);
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    std::vector<SegmentProfile> profiles;
    at::Tensor result = run(hidden_states, attention_mask, packed, skip_padding, &profiles);
    recording->add(std::chrono::duration<double>(Clock::now() - start).count(), profiles);
    return result;
  });
}

void start_profile() {
  TORCH_CHECK(!recording.has_value(),
              "bert_op::start_profile: this thread is being profiled already: bert_op::stop_profile ends it");
  recording.emplace();
}

std::string stop_profile() {
  TORCH_CHECK(recording.has_value(),
              "bert_op::stop_profile: this thread is not being profiled: call "
              "bert_op::start_profile before");
  return with_torch_errors([] { return std::exchange(recording, std::nullopt)->json(); });
}

// Also reached when only the mask or the packed model is on meta: the result would then be memory that nobody wrote.
at::Tensor encoder_meta(const at::Tensor& hidden_states, const std::optional<at::Tensor>&, at::TensorList, bool) {
  check_hidden_states(hidden_states);
  TORCH_CHECK(hidden_states.is_meta(), "bert_op::encoder: hidden_states are on ", hidden_states.device(),
              ", but attention_mask or packed is on meta");
  return at::empty_symint(hidden_states.sym_sizes(), hidden_states.options());
}

// ---- information -----------------------------------------------------------------------------------------------------

std::string build_info() {
  return with_torch_errors([] { return build_info_json(std::string("\"torch\": \"") + BERT_OP_TORCH_VERSION + "\""); });
}

std::string describe_segment(const Segment& segment) {
  const ModelShape& shape = segment.shape;
  const auto field = [](const char* name, const std::string& value) {
    return std::string("\"") + name + "\": " + value;
  };
  const auto text = [](const std::string& value) { return "\"" + value + "\""; };
  char eps[32];
  std::snprintf(eps, sizeof eps, "%.9g", static_cast<double>(shape.layer_norm_eps));
  return "{" + field("precision", text(precision_name(shape.precision))) + ", " +
         field("num_layers", std::to_string(shape.num_layers)) + ", " +
         field("hidden_size", std::to_string(shape.hidden_size)) + ", " +
         field("num_heads", std::to_string(shape.num_heads)) + ", " +
         field("intermediate_size", std::to_string(shape.intermediate_size)) + ", " +
         field("hidden_act", text(activation_name(shape.activation))) + ", " + field("layer_norm_eps", eps) + ", " +
         field("static_quantization", shape.static_quantization ? "true" : "false") + ", " +
         field("bytes", std::to_string(segment.bytes)) + "}";
}

// An object for one segment, as most models are; for several a list of them, in the order in which they run.
std::string describe(at::TensorList packed) {
  return with_torch_errors([&] {
    const std::vector<Segment> segments = segments_of(packed);
    if (segments.size() == 1) return describe_segment(segments[0]);
    std::string list;
    for (const Segment& segment : segments) list += (list.empty() ? "" : ", ") + describe_segment(segment);
    return "[" + list + "]";
  });
}

// A child of fork() inherits the records of its parent's OpenMP pool, but not the threads, and its first parallel region
// would wait for them forever, be it this op's or torch's own. So it begins with one thread, as DataLoader's workers do.
[[maybe_unused]] const int kForkWatch = pthread_atfork(nullptr, nullptr, [] { at::set_num_threads(1); });

}  // namespace

TORCH_LIBRARY(bert_op, m) {
  m.def(
      "prepack(Tensor[] weights, *, int num_heads, str hidden_act, float layer_norm_eps, str precision, "
      "float[] quantization_factors=[]) -> Tensor[]");
  m.def("encoder(Tensor hidden_states, Tensor? attention_mask, Tensor[] packed, *, bool skip_padding=False) -> Tensor");
  m.def("build_info() -> str", build_info);
  m.def("describe(Tensor[] packed) -> str", describe);
  m.def("start_profile() -> ()", start_profile);
  m.def("stop_profile() -> str", stop_profile);
}

TORCH_LIBRARY_IMPL(bert_op, CPU, m) {
  m.impl("prepack", prepack);
  m.impl("encoder", encoder);
}

TORCH_LIBRARY_IMPL(bert_op, Meta, m) {
  m.impl("prepack", prepack_meta);
  m.impl("encoder", encoder_meta);
}

// Inference only: a backward pass through the op raises instead of taking its result for a constant.
TORCH_LIBRARY_IMPL(bert_op, Autograd, m) { m.impl("encoder", torch::autograd::autogradNotImplementedFallback()); }
