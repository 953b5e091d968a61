// Packing of weights: every element where layout.h says, bytes and their scales as the reference defines them, and the
// whole way of a quantized product from floats to floats.
#include "encoder/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/rotation.h"
#include "tests/check.h"
#include "tests/operands.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

struct PackedLinear {
  Matrix weight;
  std::vector<double> bias;
  GuardedBytes tiles;
  std::vector<float> packed_bias, weight_scale, column_sum;
  Linear linear;

  PackedLinear(ElementType type, std::int64_t in, std::int64_t out, Random& random)
      : weight(random_matrix(out, in, random)), bias(random_matrix(1, out, random).values),
        tiles(out * k_tiles(type, in) * kTileRowBytes), packed_bias(static_cast<std::size_t>(out)),
        weight_scale(static_cast<std::size_t>(out * chunk_count(type, k_tiles(type, in)))),
        column_sum(static_cast<std::size_t>(out * chunk_count(type, k_tiles(type, in)))), linear{in,
                                                                                                 out,
                                                                                                 type,
                                                                                                 k_tiles(type, in),
                                                                                                 tiles.data(),
                                                                                                 packed_bias.data(),
                                                                                                 weight_scale.data(),
                                                                                                 column_sum.data(),
                                                                                                 nullptr,
                                                                                                 false,
                                                                                                 nullptr} {
    tiles.expect(0, out * k_tiles(type, in) * kTileRowBytes);
  }
  // Packs rows [begin, begin + rows), as pack_layer does with queries, keys and values.
  void pack(std::int64_t begin, std::int64_t rows) {
    const std::vector<float> weights = floats_of(weight.values), biases = floats_of(bias);
    pack_linear(linear, weights.data() + begin * weight.columns, biases.data() + begin, begin, rows);
    CHECK(tiles.rest_untouched());
  }
  const std::byte* at(std::int64_t out, std::int64_t in) const {
    return tiles.data() + weight_offset(linear.type, linear.tiles, out, in);
  }
};

TEST(weights_stand_where_the_layout_says) {
  Random random(1);
  for (const ElementType type : {ElementType::f32, ElementType::bf16}) {
    for (const std::int64_t in : {32, 96, 160}) {
      PackedLinear packed(type, in, 96, random);
      packed.pack(64, 32);
      packed.pack(0, 64);
      for (std::int64_t out = 0; out < 96; ++out) {
        CHECK(packed.packed_bias[static_cast<std::size_t>(out)] == packed.bias[static_cast<std::size_t>(out)]);
        for (std::int64_t i = 0; i < in; ++i) {
          CHECK(read_element(type, packed.at(out, i)) == representable(type, packed.weight(out, i)));
        }
      }
    }
  }
}

TEST(quantized_weights_stand_where_the_layout_says) {
  Random random(2);
  for (const std::int64_t in : {32, 160, 1056}) {
    PackedLinear packed(ElementType::u8, in, 64, random);
    for (std::int64_t i = 0; i < in; ++i) packed.weight(5, i) = 0.0;
    packed.pack(0, 32);
    packed.pack(32, 32);
    const std::int64_t chunk_columns = chunk_tiles(ElementType::u8, packed.linear.tiles) * kTileRowBytes;
    const reference::QuantizedWeights expected = reference::quantize_weights(packed.weight, chunk_columns);
    for (std::int64_t out = 0; out < 64; ++out) {
      std::vector<double> sums(static_cast<std::size_t>(chunk_count(ElementType::u8, packed.linear.tiles)));
      for (std::int64_t i = 0; i < in; ++i) {
        const auto level = static_cast<std::int8_t>(*packed.at(out, i));
        const double scale = expected.scale_of(out, i);
        // Halves may fall to either side.
        CHECK(std::abs(level * scale - packed.weight(out, i)) <= 0.50001 * scale);
        CHECK(std::abs(level - expected.levels[static_cast<std::size_t>(out * in + i)]) <= 1);
        sums[static_cast<std::size_t>(i / chunk_columns)] += level;
      }
      for (std::int64_t i = in; i < packed.linear.tiles * 64; ++i) CHECK(*packed.at(out, i) == std::byte{0});
      for (std::size_t chunk = 0; chunk < sums.size(); ++chunk) {
        const double scale = expected.scale_of(out, static_cast<std::int64_t>(chunk) * chunk_columns);
        const double sum = sums[chunk] * scale;
        CHECK_CLOSE(packed.weight_scale[chunk * 64 + static_cast<std::size_t>(out)], scale, 1e-7 * scale);
        CHECK_CLOSE(packed.column_sum[chunk * 64 + static_cast<std::size_t>(out)], sum, 1e-6 * std::abs(sum));
      }
    }
  }
}

// The product of two rotated rows is 64 times that of the rows.
TEST(products_of_rotated_rows_are_those_of_the_rows) {
  Random random(4);
  for (const std::int64_t in : {32, 96, 384, 1056}) {
    constexpr std::int64_t kOut = 3, kRows = 2;
    const Matrix x = random_matrix(kRows, in, random), weight = random_matrix(kOut, in, random);
    const std::vector<double> bias(kOut);
    std::vector<float> turned = floats_of(weight.values);
    const std::int64_t chunk = chunk_tiles(ElementType::u8, k_tiles(ElementType::u8, in)) * kTileRowBytes;
    for (std::int64_t row = 0; row < kOut; ++row) {
      for (std::int64_t begin = 0; begin < in; begin += chunk)
        rotate_chunk(turned.data() + row * in + begin, std::min(chunk, in - begin));
    }
    Matrix turned_weight(kOut, in);
    turned_weight.values.assign(turned.begin(), turned.end());
    const Matrix expected = reference::gemm(x, weight, bias, Activation::none);
    const Matrix result = reference::gemm(reference::rotate(x, chunk), turned_weight, bias, Activation::none);
    for (std::size_t i = 0; i < expected.values.size(); ++i)
      CHECK_CLOSE(result.values[i] / 64.0, expected.values[i], 1e-4);
  }
}

// The product of `tier`, rows quantized by it, [rows][out_features].
std::vector<float> product_of(const Kernels& tier, const PackedLinear& packed, const std::vector<float>& rows) {
  const Linear& linear = packed.linear;
  const auto count = static_cast<std::int64_t>(rows.size()) / linear.in_features;
  std::vector<std::byte> a(static_cast<std::size_t>(activation_bytes(count, linear.tiles)));
  std::vector<RowScale> row_scale(static_cast<std::size_t>(count * chunk_count(ElementType::u8, linear.tiles)));
  std::vector<float> partial(32 * 32), out(static_cast<std::size_t>(count * linear.out_features));
  const Entered entered(tier);
  tier.quantize(
      {ElementType::f32,
       reinterpret_cast<const std::byte*>(rows.data()),
       linear.in_features,
       0,
       count,
       {ElementType::u8, a.data(), linear.tiles, row_scale.data(), nullptr, linear.rotated, linear.smoothing}});
  tier.gemm({.type = ElementType::u8,
             .rows = count,
             .tiles = linear.tiles,
             .a = a.data(),
             .b = linear.weight,
             .bias = linear.bias,
             .weight_scale = linear.weight_scale,
             .column_sum = linear.column_sum,
             .row_scale = row_scale.data(),
             .columns = linear.out_features,
             .panel_begin = 0,
             .panel_end = linear.out_features / kPanelColumns,
             .partial = partial.data(),
             .out = store_rows(out.data(), ElementType::f32, linear.out_features)});
  return out;
}

// A channel that is large in the rows and small in the weights: the product is the same, and closer to the true one.
TEST(smoothed_product_is_that_of_the_floats) {
  Random random(5);
  constexpr std::int64_t kIn = 384, kOut = 32, kRows = 8;
  Matrix x = random_matrix(kRows, kIn, random);
  std::vector<float> gamma(kIn, 1.0f), beta(kIn, 0.0f);
  gamma[77] = 30.0f;
  for (std::int64_t row = 0; row < kRows; ++row) x(row, 77) *= 30.0;
  double errors[2] = {};
  for (const bool smoothed : {false, true}) {
    Random same(6);
    PackedLinear packed(ElementType::u8, kIn, kOut, same);
    std::vector<float> factors(kIn);
    packed.linear.rotated = true;
    packed.linear.smoothing = factors.data();
    const std::vector<float> weights = floats_of(packed.weight.values);
    pack_smoothing(packed.linear, weights.data(), kOut,
                   smoothed ? NormParameters{gamma.data(), beta.data()} : NormParameters{});
    CHECK(smoothed ? factors[77] < 0.25f * factors[78] : factors[77] == 1.0f);
    packed.pack(0, kOut);
    const std::vector<float> out = product_of(*testable_kernels().front(), packed, floats_of(x.values));
    const Matrix expected = reference::gemm(x, packed.weight, packed.bias, Activation::none);
    for (std::size_t i = 0; i < out.size(); ++i)
      errors[smoothed ? 1 : 0] += std::pow(static_cast<double>(out[i]) - expected.values[i], 2.0);
  }
  CHECK(errors[1] > 0.0);
  CHECK(errors[1] < 0.7 * errors[0]);
}

// Rows are quantized by the kernel, weights by packing: the product is the reference's quantized product, but for levels
// that lay between two and fell to the other side.
TEST(quantized_product_is_that_of_the_reference) {
  Random random(3);
  for (const auto& [in, rotated] :
       {std::pair<std::int64_t, bool>(96, false), std::pair<std::int64_t, bool>(1056, false),
        std::pair<std::int64_t, bool>(384, true), std::pair<std::int64_t, bool>(1056, true)}) {
    constexpr std::int64_t kOut = 64, kRows = 19;
    PackedLinear packed(ElementType::u8, in, kOut, random);
    packed.linear.rotated = rotated;
    packed.pack(0, kOut);
    const std::int64_t tiles = packed.linear.tiles, chunks = chunk_count(ElementType::u8, tiles);
    const Matrix x = random_matrix(kRows, in, random, ElementType::f32, 1.0, 0.3);
    const std::vector<float> rows = floats_of(x.values);
    const std::int64_t chunk_columns = chunk_tiles(ElementType::u8, tiles) * kTileRowBytes;
    const Matrix inputs = rotated ? reference::rotate(x, chunk_columns) : x;
    Matrix factors = rotated ? reference::rotate(packed.weight, chunk_columns) : packed.weight;
    for (double& factor : factors.values) factor /= rotated ? 64.0 : 1.0;
    const reference::QuantizedRows quantized = reference::quantize_rows(inputs, chunk_columns);
    const reference::QuantizedWeights weights = reference::quantize_weights(factors, chunk_columns);
    const Matrix expected = reference::gemm(quantized, weights, packed.bias, Activation::none);
    for (const Kernels* tier : testable_kernels()) {
      const std::vector<float> out = product_of(*tier, packed, rows);
      for (std::int64_t row = 0; row < kRows; ++row) {
        // One level of a row's values times one of the largest weights (127 levels).
        const double level = quantized.scale[static_cast<std::size_t>(row * chunks)];
        for (std::int64_t n = 0; n < kOut; ++n) {
          double largest = 0.0;
          for (std::int64_t k = 0; k < in; ++k) largest = std::max(largest, 127.0 * weights.scale_of(n, k));
          CHECK_CLOSE(out[static_cast<std::size_t>(row * kOut + n)], expected(row, n), level * largest + 1e-4);
        }
      }
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
