#include "encoder/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "encoder/smoothing.h"
#include "kernels/rotation.h"

namespace bert_op {
namespace {

// Round to nearest even; packing refuses NaN before it gets here.
std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Address of 4-byte group `group` (along K) of `column` in a panel.
std::byte* group_at(std::byte* panel, std::int64_t group, std::int64_t column) {
  return panel + group / 16 * kPanelTileBytes + column / 16 * kTileBytes + group % 16 * kTileRowBytes + column % 16 * 4;
}

// Elements [begin, end) along K of one column, and zeros from there to `filled`; all are multiples of a group but `end`.
template <class Element, class Convert>
void pack_column(std::byte* panel, std::int64_t column, const float* weights, std::int64_t begin, std::int64_t end,
                 std::int64_t filled, Convert convert) {
  constexpr std::int64_t kPerGroup = 4 / sizeof(Element);
  for (std::int64_t first = begin; first < filled; first += kPerGroup) {
    Element elements[kPerGroup] = {};
    for (std::int64_t i = 0; i < kPerGroup && first + i < end; ++i) elements[i] = convert(weights[first + i]);
    std::memcpy(group_at(panel, first / kPerGroup, column), elements, 4);
  }
}

// Symmetric, one scale for each output channel and chunk of K; the sum of the chunk, for the offset of the activations.
void pack_column_s8(const Linear& linear, std::byte* panel, std::int64_t column, const float* weights,
                    std::int64_t output) {
  const std::int64_t k = linear.in_features, padded = linear.tiles * kTileRowBytes;
  const std::int64_t chunk_columns = chunk_tiles(linear.type, linear.tiles) * kTileRowBytes;
  for (std::int64_t chunk = 0; chunk * chunk_columns < k; ++chunk) {
    const std::int64_t begin = chunk * chunk_columns, end = std::min(k, begin + chunk_columns);
    float largest = 0.0f;
    for (std::int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(weights[i]));
    const float scale = largest / 127.0f;
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    std::int64_t sum = 0;
    pack_column<std::int8_t>(panel, column, weights, begin, end, begin + chunk_columns < k ? end : padded,
                             [&](float w) {
                               const auto level = static_cast<std::int8_t>(std::lrintf(w * inverse));
                               sum += level;
                               return level;
                             });
    linear.weight_scale[chunk * linear.out_features + output] = scale;
    linear.column_sum[chunk * linear.out_features + output] = static_cast<float>(sum) * scale;
  }
}

void copy(float* to, const float* from, std::int64_t count) { std::copy(from, from + count, to); }

}  // namespace

void pack_linear(const Linear& linear, const float* weight, const float* bias, std::int64_t row_begin,
                 std::int64_t rows) {
  copy(linear.bias + row_begin, bias, rows);
  const std::int64_t chunk_columns = chunk_tiles(linear.type, linear.tiles) * elements_per_tile_row(linear.type);
  std::vector<float> rotated;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t output = row_begin + row;
    const float* weights = weight + row * linear.in_features;
    if (linear.rotated) {
      rotated.assign(weights, weights + linear.in_features);
      if (linear.smoothing != nullptr) {
        for (std::size_t i = 0; i < rotated.size(); ++i) rotated[i] /= linear.smoothing[i];
      }
      for (std::int64_t begin = 0; begin < linear.in_features; begin += chunk_columns)
        rotate_chunk(rotated.data() + begin, std::min(chunk_columns, linear.in_features - begin));
      for (float& value : rotated) value *= 1.0f / 64.0f;
      weights = rotated.data();
    }
    std::byte* panel = linear.weight + output / kPanelColumns * linear.tiles * kPanelTileBytes;
    const std::int64_t column = output % kPanelColumns;
    const std::int64_t k = linear.in_features, padded = linear.tiles * elements_per_tile_row(linear.type);
    switch (linear.type) {
      case ElementType::f32: pack_column<float>(panel, column, weights, 0, k, padded, [](float w) { return w; }); break;
      case ElementType::bf16: pack_column<std::uint16_t>(panel, column, weights, 0, k, padded, to_bf16); break;
      case ElementType::u8: pack_column_s8(linear, panel, column, weights, output); break;
    }
  }
}

void pack_smoothing(const Linear& linear, const float* weight, std::int64_t rows, const NormParameters& norm) {
  if (linear.smoothing == nullptr) return;
  if (norm.gamma == nullptr) {
    std::fill_n(linear.smoothing, linear.in_features, 1.0f);
    return;
  }
  const std::vector<float> factors = smoothing_factors(weight, rows, linear.in_features, norm.gamma, norm.beta);
  copy(linear.smoothing, factors.data(), linear.in_features);
}

void pack_layer(const Layer& layer, const LayerParameters& p, const NormParameters& input_norm,
                const float* static_ranges) {
  const std::int64_t hidden = layer.qkv.in_features, intermediate = layer.intermediate.out_features;
  // By the values' weights alone: what queries and keys are off by, softmax evens out.
  pack_smoothing(layer.qkv, p.value_weight, hidden, input_norm);
  pack_linear(layer.qkv, p.query_weight, p.query_bias, 0, hidden);
  pack_linear(layer.qkv, p.key_weight, p.key_bias, hidden, hidden);
  pack_linear(layer.qkv, p.value_weight, p.value_bias, 2 * hidden, hidden);
  pack_linear(layer.attention_output, p.attention_output_weight, p.attention_output_bias, 0, hidden);
  copy(layer.attention_norm.gamma, p.attention_norm_gamma, hidden);
  copy(layer.attention_norm.beta, p.attention_norm_beta, hidden);
  pack_smoothing(layer.intermediate, p.intermediate_weight, intermediate,
                 {p.attention_norm_gamma, p.attention_norm_beta});
  pack_linear(layer.intermediate, p.intermediate_weight, p.intermediate_bias, 0, intermediate);
  pack_linear(layer.output, p.output_weight, p.output_bias, 0, hidden);
  copy(layer.output_norm.gamma, p.output_norm_gamma, hidden);
  copy(layer.output_norm.beta, p.output_norm_beta, hidden);
  const Linear* linears[] = {&layer.qkv, &layer.attention_output, &layer.intermediate, &layer.output};
  for (int i = 0; i < 4; ++i) {
    if (linears[i]->static_range == nullptr) continue;
    linears[i]->static_range[0] = static_ranges == nullptr ? 0.0f : static_ranges[2 * i];
    linears[i]->static_range[1] = static_ranges == nullptr ? 0.0f : static_ranges[2 * i + 1];
  }
}

}  // namespace bert_op
