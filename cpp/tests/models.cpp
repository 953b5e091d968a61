#include "tests/models.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "encoder/pack.h"
#include "tests/check.h"

namespace bert_op::testing {
namespace {

reference::Linear random_linear(std::int64_t out, std::int64_t in, Random& random) {
  return {random_matrix(out, in, random, ElementType::f32, 1.0 / std::sqrt(static_cast<double>(in))),
          random_matrix(1, out, random, ElementType::f32, 0.1).values};
}

reference::LayerNorm random_norm(std::int64_t size, Random& random) {
  return {random_matrix(1, size, random, ElementType::f32, 0.1, 1.0).values,
          random_matrix(1, size, random, ElementType::f32, 0.1).values};
}

reference::EncoderLayer random_layer(const ModelShape& shape, Random& random) {
  const std::int64_t hidden = shape.hidden_size, intermediate = shape.intermediate_size;
  return {.query = random_linear(hidden, hidden, random),
          .key = random_linear(hidden, hidden, random),
          .value = random_linear(hidden, hidden, random),
          .attention_output = random_linear(hidden, hidden, random),
          .attention_norm = random_norm(hidden, random),
          .intermediate = random_linear(intermediate, hidden, random),
          .output = random_linear(hidden, intermediate, random),
          .output_norm = random_norm(hidden, random)};
}

void pack(const Layer& view, const reference::EncoderLayer& layer, const reference::EncoderLayer* before,
          const float* static_ranges) {
  std::vector<std::vector<float>> held;
  for (const reference::Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output}) {
    held.push_back(floats_of(linear->weight.values));
    held.push_back(floats_of(linear->bias));
  }
  held.push_back(floats_of(layer.attention_norm.gamma));
  held.push_back(floats_of(layer.attention_norm.beta));
  for (const reference::Linear* linear : {&layer.intermediate, &layer.output}) {
    held.push_back(floats_of(linear->weight.values));
    held.push_back(floats_of(linear->bias));
  }
  held.push_back(floats_of(layer.output_norm.gamma));
  held.push_back(floats_of(layer.output_norm.beta));
  NormParameters input_norm;
  std::vector<float> gamma, beta;
  if (before != nullptr) {
    gamma = floats_of(before->output_norm.gamma), beta = floats_of(before->output_norm.beta);
    input_norm = {gamma.data(), beta.data()};
  }
  const auto at = [&](std::size_t index) { return held[index].data(); };
  pack_layer(view,
             {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12), at(13),
              at(14), at(15)},
             input_norm, static_ranges);
}

}  // namespace

ModelShape bert_base(Precision precision) {
  return {.precision = precision,
          .activation = Activation::gelu_erf,
          .num_layers = 12,
          .hidden_size = 768,
          .num_heads = 12,
          .intermediate_size = 3072,
          .layer_norm_eps = 1e-12f,
          .static_quantization = false};
}

ModelShape small_shape(Precision precision, Activation activation) {
  return {.precision = precision,
          .activation = activation,
          .num_layers = 2,
          .hidden_size = 96,
          .num_heads = 3,
          .intermediate_size = 160,
          .layer_norm_eps = 1e-12f,
          .static_quantization = false};
}

TestModel::TestModel(const ModelShape& model_shape, Random& random, const std::vector<float>& static_ranges)
    : shape(model_shape), arena_(bert_op::arena_bytes(shape)) {
  write_head(arena_.data(), shape);
  for (std::int64_t index = 0; index < shape.num_layers; ++index) {
    layers.push_back(random_layer(shape, random));
    pack(layer_view(shape, arena_.data(), index), layers.back(), index == 0 ? nullptr : &layers[layers.size() - 2],
         static_ranges.empty() ? nullptr : static_ranges.data() + index * 8);
  }
}

Batch::Batch(const ModelShape& shape, std::int64_t batch_size, std::int64_t length, Random& random)
    : batch(batch_size), seq_len(length),
      hidden_states(floats_of(random_matrix(batch * seq_len, shape.hidden_size, random).values)) {}

void Batch::mask_padding(const std::vector<std::int64_t>& lengths) {
  mask_values.assign(static_cast<std::size_t>(batch * seq_len), 0.0f);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t key = lengths[static_cast<std::size_t>(b)]; key < seq_len; ++key) {
      mask_values[static_cast<std::size_t>(b * seq_len + key)] = -std::numeric_limits<float>::infinity();
    }
  }
  mask = {mask_values.data(), seq_len, 0, 0};
}

std::vector<float> run(const TestModel& model, const Batch& batch, const How& how) {
  const auto count = static_cast<std::int64_t>(batch.hidden_states.size());
  GuardedBytes result(count * 4);
  result.expect(0, count * 4);
  run_encoder({.arena = model.arena(),
               .shape = model.shape,
               .hidden_states = batch.hidden_states.data(),
               .result = result.floats(),
               .batch = batch.batch,
               .seq_len = batch.seq_len,
               .mask = batch.mask,
               .skip_padding = how.skip_padding,
               .threads = how.threads,
               .isa = how.isa});
  CHECK(result.rest_untouched());
  return {result.floats(), result.floats() + count};
}

bool same_bits(const std::vector<float>& one, const std::vector<float>& other) {
  return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * 4) == 0;
}

std::vector<float> rows_of(const std::vector<float>& result, const ModelShape& shape, std::int64_t begin,
                           std::int64_t end) {
  return {result.begin() + begin * shape.hidden_size, result.begin() + end * shape.hidden_size};
}

}  // namespace bert_op::testing
