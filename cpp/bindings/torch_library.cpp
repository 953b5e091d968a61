// The operators torch.ops.bert_op.*: functional, on plain tensors. On torch's stable C++ interface, so that one library fits
// every torch from 2.11 on, in any Python. What that interface lacks is in op/bert_op/_operators.py: the fake kernel of
// `encoder`, what a backward pass through it meets, and what a forked child has to know.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "bindings/attention_mask.h"
#include "bindings/info.h"
#include "bindings/peak.h"
#include "bindings/recording.h"
#include "bindings/tensor_view.h"
#include "encoder/arena.h"
#include "encoder/cores.h"
#include "encoder/encoder.h"
#include "encoder/pack.h"
#include "encoder/threads.h"
#include "encoder/workspace.h"

namespace {

using namespace bert_op;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;
using Tensors = std::vector<Tensor>;
using Factors = std::vector<double>;

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

// The core throws standard exceptions; users see a RuntimeError of one line that says where it comes from.
template <class Function>
auto with_one_error(Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    fail("bert_op: out of memory");
  } catch (const std::exception& error) {
    const std::string told = error.what();
    if (told.rfind("bert_op", 0) == 0) throw;
    fail("bert_op: ", told);
  }
}

// Torch's, but no more than there are cores for.
int threads_of_call() { return usable_threads(static_cast<int>(torch::stable::get_num_threads())); }

// ---- tensors ---------------------------------------------------------------------------------------------------------

std::string shape_text(const Tensor& tensor) {
  return bert_op::shape_text(std::vector<int64_t>(tensor.sizes().begin(), tensor.sizes().end()));
}

const char* dtype_name(const Tensor& tensor) { return torch::headeronly::toString(tensor.scalar_type()); }

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Bool: return Dtype::boolean;
    case ScalarType::Byte: return Dtype::u8;
    case ScalarType::Char: return Dtype::i8;
    case ScalarType::Short: return Dtype::i16;
    case ScalarType::Int: return Dtype::i32;
    case ScalarType::Long: return Dtype::i64;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    default: return Dtype::other;
  }
}

const char* device_name(const Tensor& tensor) {
  int32_t type = -1;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  if (type == aoti_torch_device_type_meta()) return "meta";
  if (type == aoti_torch_device_type_cuda()) return "cuda";
  if (type == aoti_torch_device_type_xpu()) return "xpu";
  return "another device";
}

// Tensors that claim to be on the CPU may still have no memory: fake tensors, those of zeros that are never written, and
// those of other layouts.
const void* data_of(const Tensor& tensor, const char* name) {
  int32_t layout = -1;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(tensor.get(), &layout));
  const void* data = nullptr;
  const bool given =
      layout == aoti_torch_layout_strided() && torch_get_const_data_ptr(tensor.get(), &data) == TORCH_SUCCESS;
  require(given && (data != nullptr || tensor.numel() == 0), "bert_op: ", name,
          " has no data: it is a fake tensor, one of zeros without memory, or not strided");
  return data;
}

TensorView view_of(const Tensor& tensor, const char* name) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  return {data_of(tensor, name),
          {sizes.begin(), sizes.end()},
          {strides.begin(), strides.end()},
          dtype_of(tensor),
          dtype_name(tensor)};
}

// A dense CPU tensor for the encoder to write to.
Tensor empty_tensor(Sizes sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (std::size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(sizes[dim], 1);
  }
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  code, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// The tensor itself if it is of this type already.
Tensor to_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// ---- prepack ---------------------------------------------------------------------------------------------------------

std::string tensor_name(int64_t layer, int64_t index) {
  return "layer." + std::to_string(layer) + "." + kTensorNames[index];
}

ModelShape shape_of(const Tensors& weights, int64_t num_heads, const std::string& hidden_act, double layer_norm_eps,
                    const std::string& precision, const Factors& factors, int64_t kept_linears,
                    const std::optional<Tensor>& input_norm) {
  const auto count = static_cast<int64_t>(weights.size());
  require(count > 0 && count % kTensorsPerLayer == 0,
          "bert_op::prepack: weights must have 16 tensors for each layer, got ", count);
  const int64_t layers = count / kTensorsPerLayer;
  require(weights[0].dim() == 2 && weights[10].dim() == 2, "bert_op::prepack: ", tensor_name(0, 0), " and ",
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
  require(kept_linears >= 0 && kept_linears < 1 << kLinears, "bert_op::prepack: kept_linears must be 0 to 15, got ",
          kept_linears);
  shape.kept = static_cast<std::uint8_t>(kept_linears);
  check_shape(shape);
  require(factors.empty() || static_cast<int64_t>(factors.size()) == layers * kFactorsPerLayer,
          "bert_op::prepack: quantization_factors must be empty or have 8 numbers for each of the ", layers,
          " layers (min, max of the inputs of QKV, attention output, intermediate, output), got ", factors.size());
  for (std::size_t i = 0; i + 1 < factors.size(); i += 2) {
    const auto low = static_cast<float>(factors[i]), high = static_cast<float>(factors[i + 1]);
    require(std::isfinite(high - low) && factors[i] <= factors[i + 1], "bert_op::prepack: quantization_factors[", i,
            "] and [", i + 1, "] are ", factors[i], " and ", factors[i + 1],
            ": each pair must be a minimum and a maximum not below it, finite in fp32");
  }
  const int64_t h = shape.hidden_size, f = shape.intermediate_size;
  const std::vector<std::vector<int64_t>> expected = {{h, h}, {h}, {h, h}, {h}, {h, h}, {h}, {h, h}, {h},
                                                      {h},    {h}, {f, h}, {f}, {h, f}, {h}, {h},    {h}};
  for (int64_t i = 0; i < count; ++i) {
    const Tensor& weight = weights[i];
    const Sizes sizes(expected[i % kTensorsPerLayer]);
    const auto name = [&] { return tensor_name(i / kTensorsPerLayer, i % kTensorsPerLayer); };
    if (weight.sizes() != sizes) {
      fail("bert_op::prepack: ", name(), " has shape ", shape_text(weight), ", expected ",
           bert_op::shape_text(expected[i % kTensorsPerLayer]));
    }
    if (!is_floating_point(dtype_of(weight))) {
      fail("bert_op::prepack: ", name(), " must be of a floating-point dtype, not ", dtype_name(weight));
    }
  }
  if (input_norm.has_value()) {
    require(is_floating_point(dtype_of(*input_norm)) && input_norm->sizes() == Sizes(std::vector<int64_t>{2, h}),
            "bert_op::prepack: input_norm must be of 2 x ", h,
            " floating-point numbers: weight and bias of the LayerNorm before the first layer");
  }
  return shape;
}

bool all_finite(const float* data, int64_t count) {
  float poison = 0.0f;
  for (int64_t i = 0; i < count; ++i) poison += data[i] * 0.0f;
  return poison == 0.0f;
}

// Parameters as contiguous fp32; `held` keeps those that had to be copied.
void pack_one_layer(const ModelShape& shape, std::byte* arena, int64_t index, const Tensors& weights,
                    const Factors& factors, const std::optional<Tensor>& norm_before) {
  std::vector<Floats> held;
  held.reserve(kTensorsPerLayer + 2);
  const float* data[kTensorsPerLayer];
  for (int64_t i = 0; i < kTensorsPerLayer; ++i) {
    const Tensor& weight = weights[index * kTensorsPerLayer + i];
    held.emplace_back(view_of(weight, "a weight"));
    data[i] = held.back().data();
    if (!all_finite(data[i], weight.numel())) {
      fail("bert_op::prepack: ", tensor_name(index, i),
           " contains NaN or infinity: the checkpoint is damaged or its training diverged");
    }
  }
  const LayerParameters parameters{data[0], data[1], data[2],  data[3],  data[4],  data[5],  data[6],  data[7],
                                   data[8], data[9], data[10], data[11], data[12], data[13], data[14], data[15]};
  NormParameters input_norm;
  if (index > 0) {
    const float** parts[] = {&input_norm.gamma, &input_norm.beta};
    for (int64_t i = 0; i < 2; ++i) {
      held.emplace_back(view_of(weights[index * kTensorsPerLayer - 2 + i], "a weight"));
      *parts[i] = held.back().data();
    }
  } else if (norm_before.has_value()) {
    held.emplace_back(view_of(*norm_before, "input_norm"));
    input_norm = {held.back().data(), held.back().data() + shape.hidden_size};
    if (!all_finite(held.back().data(), 2 * shape.hidden_size)) {
      fail("bert_op::prepack: input_norm contains NaN or infinity: the checkpoint is damaged or its training diverged");
    }
  }
  float ranges[kFactorsPerLayer];
  if (shape.static_quantization) {
    for (int64_t i = 0; i < kFactorsPerLayer; ++i)
      ranges[i] = static_cast<float>(factors[index * kFactorsPerLayer + i]);
  }
  pack_layer(layer_view(shape, arena, index), parameters, input_norm, shape.static_quantization ? ranges : nullptr);
}

// With it ends its OpenMP pool: who only loads a model may fork and use threads after.
template <class Function>
void in_a_thread_of_its_own(const Function& function) {
  std::exception_ptr thrown;
  std::thread([&] {
    try {
      function();
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
}

Tensors prepack(const Tensors& weights, int64_t num_heads, const std::string& hidden_act, double layer_norm_eps,
                const std::string& precision, const Factors& factors, int64_t kept_linears,
                const std::optional<Tensor>& input_norm) {
  return with_one_error([&] {
    const ModelShape shape =
        shape_of(weights, num_heads, hidden_act, layer_norm_eps, precision, factors, kept_linears, input_norm);
    for (const Tensor& weight : weights) {
      require(weight.is_cpu(), "bert_op::prepack: weights must be on the CPU, not on ", device_name(weight));
    }
    require(!input_norm.has_value() || input_norm->is_cpu(), "bert_op::prepack: input_norm must be on the CPU");
    const std::size_t bytes = arena_bytes(shape);
    std::byte* arena = allocate_huge(bytes);
    const int64_t size = static_cast<int64_t>(bytes), stride = 1;
    Tensor packed = torch::stable::from_blob(
        arena, Sizes(&size, 1), Sizes(&stride, 1), torch::stable::Device(torch::headeronly::DeviceType::CPU),
        ScalarType::Byte, [](void* memory) { free_huge(static_cast<std::byte*>(memory)); });
    std::memset(arena, 0, bytes);
    write_head(arena, shape);
    std::atomic<int64_t> next{0};
    const auto pack_all = [&, threads = threads_of_call()] {
      run_parallel(threads, [&](int, int) {
        for (int64_t index = next++; index < shape.num_layers; index = next++) {
          pack_one_layer(shape, arena, index, weights, factors, input_norm);
        }
      });
    };
    in_a_thread_of_its_own(pack_all);
    return Tensors{packed};
  });
}

Tensors prepack_meta(const Tensors& weights, int64_t num_heads, const std::string& hidden_act, double layer_norm_eps,
                     const std::string& precision, const Factors& factors, int64_t kept_linears,
                     const std::optional<Tensor>& input_norm) {
  return with_one_error([&] {
    const ModelShape shape =
        shape_of(weights, num_heads, hidden_act, layer_norm_eps, precision, factors, kept_linears, input_norm);
    for (const Tensor& weight : weights) {
      require(std::strcmp(device_name(weight), "meta") == 0,
              "bert_op::prepack: weights must all be on one device, but are on meta and on ", device_name(weight));
    }
    const auto bytes = static_cast<int64_t>(arena_bytes(shape));
    return Tensors{torch::stable::empty(Sizes(&bytes, 1), ScalarType::Byte, std::nullopt,
                                        torch::stable::Device(torch::headeronly::DeviceType::Meta))};
  });
}

// ---- encoder ---------------------------------------------------------------------------------------------------------

// Consecutive layers of one precision.
struct Segment {
  const std::byte* arena;
  ModelShape shape;
  int64_t bytes;
};

// A packed model is one or more segments that run one after the other: each in a tensor of its own, or, `joined`, several in
// one tensor.
std::vector<Segment> segments_of(const Tensors& packed, bool joined = false) {
  require(packed.size() > 0, "bert_op: packed is empty: give the results of bert_op::prepack");
  std::vector<Segment> segments;
  for (const Tensor& tensor : packed) {
    // A list that TorchScript keeps as a constant is emptied by its first call: torch's stable interface moves tensors
    // out of it.
    require(
        tensor.defined(),
        "bert_op: packed holds no tensor any more: this TorchScript graph calls bert_op::encoder with a list. Record "
        "it again, or join the list and call bert_op::encoder.joined");
    require(tensor.scalar_type() == ScalarType::Byte && tensor.dim() == 1 && tensor.is_contiguous() && tensor.is_cpu(),
            "bert_op: packed must be results of bert_op::prepack: a list of 1-D contiguous uint8 CPU tensors");
    const auto* arena = static_cast<const std::byte*>(data_of(tensor, "packed"));
    // Kernels read at any address of a float. 64 bytes, as torch allocates, are faster, but AOTInductor gives 16.
    require(reinterpret_cast<std::uintptr_t>(arena) % alignof(float) == 0, "bert_op: packed must be aligned to ",
            alignof(float), " bytes: give packed.clone()");
    auto rest = static_cast<std::size_t>(tensor.numel());
    do {
      const ModelShape shape = read_head(arena, rest, joined);
      const std::size_t bytes = arena_bytes(shape);
      const ModelShape& first = segments.empty() ? shape : segments.front().shape;
      require(shape.hidden_size == first.hidden_size && shape.num_heads == first.num_heads, "bert_op: packed[",
              segments.size(), "] has hidden_size ", shape.hidden_size, " and ", shape.num_heads,
              " heads, but packed[0] has ", first.hidden_size, " and ", first.num_heads,
              ": they are not layers of one model");
      segments.push_back({arena, shape, static_cast<int64_t>(bytes)});
      arena += bytes;
      rest -= bytes;
    } while (rest > 0);
  }
  return segments;
}

void check_hidden_states(const Tensor& hidden_states) {
  require(hidden_states.defined(), "bert_op::encoder: hidden_states is None");
  require(hidden_states.dim() == 3, "bert_op::encoder: hidden_states must be (batch, seq_len, hidden_size), got ",
          hidden_states.dim(), " dimensions");
  const ScalarType type = hidden_states.scalar_type();
  require(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
          "bert_op::encoder: hidden_states must be float32, bfloat16 or float16, not ", dtype_name(hidden_states));
  require(hidden_states.is_cpu(), "bert_op::encoder: hidden_states must be on the CPU, not on ",
          device_name(hidden_states));
}

AdditiveMask checked_inputs(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask,
                            const ModelShape& shape) {
  check_hidden_states(hidden_states);
  require(hidden_states.size(2) == shape.hidden_size, "bert_op::encoder: hidden_states has shape ",
          shape_text(hidden_states), ", but the packed model's hidden_size is ", shape.hidden_size);
  if (!attention_mask.has_value() || !attention_mask->defined()) return {};
  require(attention_mask->is_cpu(), "bert_op::encoder: attention_mask must be on the CPU, not on ",
          device_name(*attention_mask));
  return additive_mask(view_of(*attention_mask, "attention_mask"), hidden_states.size(0), shape.num_heads,
                       hidden_states.size(1));
}

// `profiles`, if given, get one for each segment.
Tensor run(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask,
           const std::vector<Segment>& segments, bool skip_padding, std::vector<SegmentProfile>* profiles) {
  const AdditiveMask mask = checked_inputs(hidden_states, attention_mask, segments.front().shape);
  const int64_t batch = hidden_states.size(0), seq_len = hidden_states.size(1);
  if (hidden_states.numel() == 0) return empty_tensor(hidden_states.sizes(), hidden_states.scalar_type());
  const bool as_it_is = hidden_states.scalar_type() == ScalarType::Float && hidden_states.is_contiguous();
  Tensor input = as_it_is ? hidden_states : torch::stable::contiguous(to_type(hidden_states, ScalarType::Float));
  for (const Segment& segment : segments) {  // between them the rows stay in fp32
    Tensor result = empty_tensor(hidden_states.sizes(), ScalarType::Float);
    data_of(result, "result");  // under a mode that makes fake tensors it has none
    SegmentProfile measured{segment.shape.precision, {}};
    run_encoder({.arena = segment.arena,
                 .shape = segment.shape,
                 .hidden_states = static_cast<const float*>(data_of(input, "hidden_states")),
                 .result = static_cast<float*>(result.mutable_data_ptr()),
                 .batch = batch,
                 .seq_len = seq_len,
                 .mask = mask.mask,
                 .skip_padding = skip_padding,
                 .threads = threads_of_call(),
                 .isa = active_isa(),
                 .profile = profiles == nullptr ? nullptr : &measured.profile});
    if (profiles != nullptr) profiles->push_back(measured);
    input = std::move(result);
  }
  return to_type(input, hidden_states.scalar_type());
}

// How `encoder` computes the same call, for each segment; threads: 0 for those that it would use.
std::string plan(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask, const Tensors& packed,
                 bool skip_padding, int64_t threads) {
  return with_one_error([&] {
    require(threads >= 0 && threads <= 4096, "bert_op::plan: threads must be 0 to 4096, got ", threads);
    const std::vector<Segment> segments = segments_of(packed);
    const AdditiveMask mask = checked_inputs(hidden_states, attention_mask, segments.front().shape);
    std::vector<int64_t> lengths;
    for (const Sequence& sequence : find_sequences(hidden_states.size(0), hidden_states.size(1),
                                                   segments.front().shape.num_heads, mask.mask, skip_padding)
                                        .items) {
      lengths.push_back(sequence.length);
    }
    require(!lengths.empty(), "bert_op::plan: there is no position to compute");
    const int most = threads == 0 ? threads_of_call() : static_cast<int>(threads);
    std::string list;
    for (const Segment& segment : segments)
      list += (list.empty() ? "" : ", ") + plan_json(segment.shape, active_isa(), lengths, most);
    return "[" + list + "]";
  });
}

// Between start_profile and stop_profile: what this thread's calls took. It changes no result.
thread_local std::optional<Recording> recording;

Tensor recorded(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask, const Tensors& packed,
                bool joined, bool skip_padding) {
  const std::vector<Segment> segments = segments_of(packed, joined);
  if (!recording.has_value()) return run(hidden_states, attention_mask, segments, skip_padding, nullptr);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::vector<SegmentProfile> profiles;
  Tensor result = run(hidden_states, attention_mask, segments, skip_padding, &profiles);
  recording->add(std::chrono::duration<double>(Clock::now() - start).count(), profiles);
  return result;
}

Tensor encoder(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask, const Tensors& packed,
               bool skip_padding) {
  return with_one_error([&] { return recorded(hidden_states, attention_mask, packed, false, skip_padding); });
}

// For TorchScript, see segments_of: all segments in one tensor, as torch.cat joins them.
Tensor encoder_joined(const Tensor& hidden_states, const std::optional<Tensor>& attention_mask, const Tensor& packed,
                      bool skip_padding) {
  return with_one_error([&] { return recorded(hidden_states, attention_mask, {packed}, true, skip_padding); });
}

void start_profile() {
  require(!recording.has_value(),
          "bert_op::start_profile: this thread is being profiled already: bert_op::stop_profile ends it");
  recording.emplace();
}

std::string stop_profile() {
  require(recording.has_value(),
          "bert_op::stop_profile: this thread is not being profiled: call bert_op::start_profile before");
  return with_one_error([] { return std::exchange(recording, std::nullopt)->json(); });
}

// ---- information -----------------------------------------------------------------------------------------------------

int64_t threads() { return threads_of_call(); }

std::string build_info() {
  return with_one_error([] { return build_info_json("\"torch\": \"" BERT_OP_TORCH_VERSION "\""); });
}

double peak(const std::string& type, double seconds, const std::string& isa) {
  return with_one_error([&] { return measure_peak(type, seconds, isa); });
}

// An object for one segment, as most models are; for several a list of them, in the order in which they run.
std::string describe(const Tensors& packed) {
  return with_one_error([&] {
    const std::vector<Segment> segments = segments_of(packed);
    if (segments.size() == 1) return packed_json(segments[0].shape, segments[0].bytes);
    std::string list;
    for (const Segment& segment : segments)
      list += (list.empty() ? "" : ", ") + packed_json(segment.shape, segment.bytes);
    return "[" + list + "]";
  });
}

// ---- threads ---------------------------------------------------------------------------------------------------------

// Torch cuts [0, threads) into consecutive parts of one size and runs them at once, each by a thread of its own: parts of one
// index where it has as many threads as are asked for, one part of all in somebody's parallel region. But its regions begin and end
// with all of torch's threads, however few have something to do: where there are not as many cores, waking them takes longer
// than to start threads of our own.
void in_torch_pool(int threads, const Region& region) {
  if (threads_of_call() < static_cast<int>(torch::stable::get_num_threads())) return start_threads(threads, region);
  struct Job {
    const Region& region;
    int threads;
  } job{region, threads};
  const auto part = [](int64_t begin, int64_t end, void* context) {
    const Job& told = *static_cast<const Job*>(context);
    uint32_t thread = 0;
    TORCH_ERROR_CODE_CHECK(torch_get_thread_idx(&thread));
    const int64_t size = thread == 0 ? end - begin : begin / thread;
    told.region(static_cast<int>(thread), static_cast<int>((told.threads + size - 1) / size));
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, threads, 1, part, &job));
}

[[maybe_unused]] const bool kPool = (use_pool(in_torch_pool), true);

}  // namespace

STABLE_TORCH_LIBRARY(bert_op, m) {
  m.def(
      "prepack(Tensor[] weights, *, int num_heads, str hidden_act, float layer_norm_eps, str precision, "
      "float[] quantization_factors=[], int kept_linears=0, Tensor? input_norm=None) -> Tensor[]");
  m.def("encoder(Tensor hidden_states, Tensor? attention_mask, Tensor[] packed, *, bool skip_padding=False) -> Tensor");
  m.def(
      "encoder.joined(Tensor hidden_states, Tensor? attention_mask, Tensor packed, *, bool skip_padding=False) -> "
      "Tensor");
  m.def("build_info() -> str");
  m.def("threads() -> int");
  m.def(
      "plan(Tensor hidden_states, Tensor? attention_mask, Tensor[] packed, *, bool skip_padding=False, int threads=0) "
      "-> "
      "str");
  m.def("describe(Tensor[] packed) -> str");
  m.def("start_profile() -> ()");
  m.def("stop_profile() -> str");
  m.def("measure_peak(str type, float seconds=0.2, str isa=\"\") -> float");
}

STABLE_TORCH_LIBRARY_IMPL(bert_op, CPU, m) {
  m.impl("prepack", TORCH_BOX(&prepack));
  m.impl("encoder", TORCH_BOX(&encoder));
  m.impl("encoder.joined", TORCH_BOX(&encoder_joined));
  m.impl("plan", TORCH_BOX(&plan));
}

STABLE_TORCH_LIBRARY_IMPL(bert_op, Meta, m) { m.impl("prepack", TORCH_BOX(&prepack_meta)); }

STABLE_TORCH_LIBRARY_IMPL(bert_op, CompositeImplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
  m.impl("threads", TORCH_BOX(&threads));
  m.impl("describe", TORCH_BOX(&describe));
  m.impl("start_profile", TORCH_BOX(&start_profile));
  m.impl("stop_profile", TORCH_BOX(&stop_profile));
  m.impl("measure_peak", TORCH_BOX(&peak));
}
