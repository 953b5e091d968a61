// Every tier's LayerNorm, packing and quantization of rows against the reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "tests/check.h"
#include "tests/operands.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

constexpr double kEps = 0x1p-24;
constexpr ElementType kTypes[] = {ElementType::f32, ElementType::bf16, ElementType::u8};

// Tile-packed rows with their scales, and a check that only rows [begin, end) were written.
struct Packed {
  ElementType type;
  std::int64_t rows, columns, tiles, chunks;
  GuardedBytes bytes, scales;

  Packed(ElementType element_type, std::int64_t row_count, std::int64_t column_count)
      : type(element_type), rows(row_count), columns(column_count), tiles(k_tiles(type, columns)),
        chunks(chunk_count(type, tiles)), bytes(activation_bytes(rows, tiles)), scales(rows * chunks * 8) {}

  PackedRows args(const float* static_range = nullptr, bool rotated = false, const float* smoothing = nullptr) {
    auto* row_scale = reinterpret_cast<RowScale*>(scales.data());
    return {type, bytes.data(), tiles, type == ElementType::u8 ? row_scale : nullptr, static_range, rotated, smoothing};
  }
  void check_rest(std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t tile = 0; tile < tiles; ++tile)
        bytes.expect((row / 16 * tiles + tile) * 1024 + row % 16 * 64, 64);
    }
    if (type == ElementType::u8) scales.expect(begin * chunks * 8, (end - begin) * chunks * 8);
    CHECK(bytes.rest_untouched());
    CHECK(scales.rest_untouched());
  }
  std::int64_t chunk_columns() const { return chunk_tiles(type, tiles) * kTileRowBytes; }
  RowScale scale(std::int64_t row, std::int64_t column) {
    RowScale scale;
    std::memcpy(&scale, scales.data() + (row * chunks + column / chunk_columns()) * 8, 8);
    return scale;
  }
  std::uint8_t level(std::int64_t row, std::int64_t column) {
    return static_cast<std::uint8_t>(bytes.data()[activation_offset(type, tiles, row, column)]);
  }
  // What the element stands for.
  double value(std::int64_t row, std::int64_t column) {
    const std::byte* at = bytes.data() + activation_offset(type, tiles, row, column);
    if (type != ElementType::u8) return read_element(type, at);
    const RowScale of = scale(row, column);
    return of.offset + static_cast<double>(of.scale) * level(row, column);
  }
};

// Row `row` of `packed` must stand for row `from` of x: exactly, but for rounding to bf16 and half a level of 255.
void check_packed(Packed& packed, std::int64_t row, const Matrix& x, std::int64_t from) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < x.columns; ++i) largest = std::max(largest, std::abs(x(from, i)));
  for (std::int64_t i = 0; i < x.columns; ++i) {
    double allowed = packed.type == ElementType::bf16 ? 0x1p-8 * std::abs(x(from, i)) : 0.0;
    if (packed.type == ElementType::u8) allowed = 0.502 * packed.scale(row, i).scale + 4 * kEps * largest;
    CHECK_CLOSE(packed.value(row, i), x(from, i), allowed);
  }
  if (packed.type != ElementType::u8) return;
  for (std::int64_t i = x.columns; i < packed.tiles * 64; ++i) CHECK(packed.level(row, i) == 0);
}

Matrix matrix_of(const GuardedBytes& bytes, std::int64_t rows, std::int64_t columns) {
  Matrix matrix(rows, columns);
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    matrix.values[static_cast<std::size_t>(i)] = read_element(ElementType::f32, bytes.data() + i * 4);
  }
  return matrix;
}

std::vector<std::int64_t> shuffled(std::int64_t count, Random& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

// gamma null: rows are packed as they are. Rows [begin, end) of `order` are taken.
void check_layer_norm(const Matrix& x, bool normalize, ElementType type, std::int64_t begin, std::int64_t end,
                      Random& random) {
  const std::vector<double> gamma = random_matrix(1, x.columns, random).values;
  const std::vector<double> beta = random_matrix(1, x.columns, random).values;
  const std::vector<float> gamma_floats = floats_of(gamma), beta_floats = floats_of(beta);
  constexpr float kLayerNormEps = 1e-5f;
  const std::vector<std::int64_t> order = shuffled(x.rows, random);
  const Matrix expected = reference::layer_norm(x, gamma, beta, kLayerNormEps);
  const std::vector<std::byte> start = row_major(x, ElementType::f32);
  for (const Kernels* tier : testable_kernels()) {
    GuardedBytes rows(x.rows * x.columns * 4);
    std::memcpy(rows.data(), start.data(), start.size());
    rows.expect(0, static_cast<std::int64_t>(start.size()));
    Packed packed(type, x.rows, x.columns);
    {
      const Entered entered(*tier);
      tier->layer_norm({.x = rows.floats(),
                        .rows = order.data(),
                        .hidden_size = x.columns,
                        .gamma = normalize ? gamma_floats.data() : nullptr,
                        .beta = normalize ? beta_floats.data() : nullptr,
                        .eps = kLayerNormEps,
                        .row_begin = begin,
                        .row_end = end,
                        .packed = packed.args()});
    }
    CHECK(rows.rest_untouched());
    packed.check_rest(begin, end);
    const Matrix result = matrix_of(rows, x.rows, x.columns);
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const std::int64_t row = order[static_cast<std::size_t>(i)];
      const bool taken = i >= begin && i < end;
      double largest = 0.0;
      for (std::int64_t c = 0; c < x.columns; ++c) largest = std::max(largest, std::abs(x(row, c)));
      for (std::int64_t c = 0; c < x.columns; ++c) {
        if (!taken || !normalize) {
          CHECK(result(row, c) == x(row, c));
          continue;
        }
        // The mean is a fp32 sum; x - mean is then exact to its own rounding. The deviation of x is 1.
        const double lost =
            kEps * (largest * (4.0 + std::sqrt(static_cast<double>(x.columns))) + 32.0 + x.columns / 16.0);
        const auto at = static_cast<std::size_t>(c);
        CHECK_CLOSE(result(row, c), expected(row, c),
                    lost * std::abs(gamma[at]) * 1.5 + 4 * kEps * (std::abs(expected(row, c)) + std::abs(beta[at])));
      }
      if (taken) check_packed(packed, i, result, row);
    }
  }
}

TEST(layer_norm_of_any_hidden_size) {
  Random random(1);
  for (std::int64_t hidden = 32; hidden <= 1056; hidden += hidden < 320 ? 32 : 128) {
    for (const ElementType type : kTypes) {
      const Matrix x = random_matrix(35, hidden, random);
      check_layer_norm(x, true, type, 0, 35, random);
      check_layer_norm(x, true, type, 3, 30, random);
      check_layer_norm(x, false, type, 1, 34, random);
    }
  }
}

// A constant beside the deviation must not cancel it: a mean of squares minus the square of the mean would.
TEST(layer_norm_subtracts_the_mean_before_it_squares) {
  Random random(2);
  for (const double constant : {100.0, -3000.0, 3e4}) {
    for (const std::int64_t hidden : {64, 768}) {
      check_layer_norm(random_matrix(9, hidden, random, ElementType::f32, 1.0, constant), true, ElementType::f32, 0, 9,
                       random);
    }
  }
}

TEST(layer_norm_of_constant_rows_is_beta) {
  Random random(3);
  Matrix x(4, 96);
  std::fill(x.values.begin(), x.values.end(), 2.0);
  check_layer_norm(x, true, ElementType::u8, 0, 4, random);
}

TEST(layer_norm_without_packing_writes_rows_only) {
  Random random(4);
  const Matrix x = random_matrix(5, 64, random);
  const std::vector<float> ones(64, 1.0f), zeros(64, 0.0f);
  const std::vector<std::int64_t> order = shuffled(5, random);
  const Matrix expected = reference::layer_norm(x, std::vector<double>(64, 1.0), std::vector<double>(64, 0.0), 0.0);
  for (const Kernels* tier : testable_kernels()) {
    std::vector<float> rows = floats_of(x.values);
    tier->layer_norm({rows.data(), order.data(), 64, ones.data(), zeros.data(), 0.0f, 0, 5, {}});
    for (std::size_t i = 0; i < rows.size(); ++i) CHECK_CLOSE(rows[i], expected.values[i], 1e-5);
  }
}

// Quantizes rows [begin, end) of x with every tier and checks scales, levels and all that must stay untouched.
void check_quantize(const Matrix& x, ElementType source_type, std::int64_t begin, std::int64_t end,
                    const double* static_range) {
  const std::vector<std::byte> source = row_major(x, source_type);
  const float range[] = {static_cast<float>(static_range ? static_range[0] : 0.0),
                         static_cast<float>(static_range ? static_range[1] : 0.0)};
  for (const Kernels* tier : testable_kernels()) {
    Packed packed(ElementType::u8, x.rows, x.columns);
    {
      const Entered entered(*tier);
      tier->quantize({source_type, source.data(), x.columns, begin, end, packed.args(static_range ? range : nullptr)});
    }
    packed.check_rest(begin, end);
    const reference::QuantizedRows expected = reference::quantize_rows(x, packed.chunk_columns(), static_range);
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t i = 0; i < x.columns; ++i) {
        const auto at = static_cast<std::size_t>(row * packed.chunks + i / packed.chunk_columns());
        const RowScale scale = packed.scale(row, i);
        CHECK_CLOSE(scale.scale, expected.scale[at], 4 * kEps * expected.scale[at]);
        CHECK(scale.offset == static_cast<float>(expected.offset[at]));
        // Halves may fall to either side; nothing else may.
        const double exact = expected.scale[at] > 0.0 ? (x(row, i) - expected.offset[at]) / expected.scale[at] : 0.0;
        CHECK(std::abs(packed.level(row, i) - std::clamp(exact, 0.0, 255.0)) <= 0.5 + 255 * 4 * kEps);
      }
    }
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t i = x.columns; i < packed.tiles * 64; ++i) CHECK(packed.level(row, i) == 0);
    }
  }
}

TEST(quantize_of_any_width) {
  Random random(5);
  for (const ElementType source_type : {ElementType::f32, ElementType::bf16}) {
    for (std::int64_t columns = 32; columns <= 1056; columns += 32) {
      check_quantize(random_matrix(5, columns, random, source_type), source_type, 0, 5, nullptr);
    }
    check_quantize(random_matrix(40, 3072, random, source_type, 3.0, 20.0), source_type, 7, 39, nullptr);
  }
}

// What a rotated chunk may be off by: eight roundings of sums of 64 values.
double rotation_error(const Matrix& x, std::int64_t row) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < x.columns; ++i) largest = std::max(largest, std::abs(x(row, i)));
  return 64 * 8 * kEps * largest;
}

void check_rotated(Packed& packed, const Matrix& x, std::int64_t begin, std::int64_t end) {
  const Matrix rotated = reference::rotate(x, packed.chunk_columns());
  const reference::QuantizedRows expected = reference::quantize_rows(rotated, packed.chunk_columns());
  for (std::int64_t row = begin; row < end; ++row) {
    const double error = rotation_error(x, row);
    for (std::int64_t i = 0; i < x.columns; ++i) {
      const auto at = static_cast<std::size_t>(row * packed.chunks + i / packed.chunk_columns());
      CHECK_CLOSE(packed.scale(row, i).scale, expected.scale[at], error);
      CHECK_CLOSE(packed.scale(row, i).offset, expected.offset[at], error);
      CHECK_CLOSE(packed.value(row, i), rotated(row, i), 0.5001 * expected.scale[at] + 2 * error);
    }
    for (std::int64_t i = x.columns; i < packed.tiles * 64; ++i) CHECK(packed.level(row, i) == 0);
  }
}

TEST(rotated_rows_of_any_width) {
  Random random(9);
  for (const ElementType source_type : {ElementType::f32, ElementType::bf16}) {
    for (const std::int64_t columns : {32, 96, 128, 320, 384, 768, 1056, 1536}) {
      const Matrix x = random_matrix(5, columns, random, source_type, 1.0, 0.3);
      const std::vector<std::byte> source = row_major(x, source_type);
      for (const Kernels* tier : testable_kernels()) {
        Packed packed(ElementType::u8, x.rows, columns);
        {
          const Entered entered(*tier);
          tier->quantize({source_type, source.data(), columns, 1, 4, packed.args(nullptr, true)});
        }
        packed.check_rest(1, 4);
        check_rotated(packed, x, 1, 4);
      }
    }
  }
}

// LayerNorm rotates what it packs, and leaves unrotated rows behind.
TEST(layer_norm_packs_rotated_rows) {
  Random random(10);
  for (const std::int64_t columns : {96, 768, 1056}) {
    const Matrix x = random_matrix(4, columns, random);
    const std::vector<double> gamma = random_matrix(1, columns, random).values;
    const std::vector<double> beta = random_matrix(1, columns, random).values;
    const std::vector<float> gamma_floats = floats_of(gamma), beta_floats = floats_of(beta);
    const std::vector<std::int64_t> order = {2, 0, 3, 1};
    for (const Kernels* tier : testable_kernels()) {
      std::vector<float> rows = floats_of(x.values);
      Packed packed(ElementType::u8, x.rows, columns);
      {
        const Entered entered(*tier);
        tier->layer_norm({.x = rows.data(),
                          .rows = order.data(),
                          .hidden_size = columns,
                          .gamma = gamma_floats.data(),
                          .beta = beta_floats.data(),
                          .eps = 1e-5f,
                          .row_begin = 0,
                          .row_end = 4,
                          .packed = packed.args(nullptr, true)});
      }
      const Matrix expected = reference::layer_norm(x, gamma, beta, 1e-5);
      Matrix left(4, columns);
      for (std::int64_t row = 0; row < 4; ++row) {
        for (std::int64_t i = 0; i < columns; ++i) {
          const std::int64_t from = order[static_cast<std::size_t>(row)];
          left(row, i) = static_cast<double>(rows[static_cast<std::size_t>(from * columns + i)]);
          CHECK_CLOSE(left(row, i), expected(from, i), 1e-5);
        }
      }
      check_rotated(packed, left, 0, 4);
    }
  }
}

// What is packed are the channels times their factors; what LayerNorm leaves behind is not.
TEST(rows_are_multiplied_by_the_smoothing_factors_before_they_are_rotated) {
  Random random(12);
  for (const std::int64_t columns : {96, 768, 1056}) {
    const Matrix x = random_matrix(3, columns, random);
    std::vector<float> factors = floats_of(random_matrix(1, columns, random).values);
    for (float& factor : factors) factor = std::exp2(factor);
    const std::vector<float> gamma(static_cast<std::size_t>(columns), 1.5f), beta(gamma.size(), 0.25f);
    const std::vector<std::int64_t> order = {0, 1, 2};
    for (const Kernels* tier : testable_kernels()) {
      for (const float* norm : {static_cast<const float*>(nullptr), gamma.data()}) {
        std::vector<float> rows = floats_of(x.values);
        Packed packed(ElementType::u8, x.rows, columns);
        {
          const Entered entered(*tier);
          tier->layer_norm({.x = rows.data(),
                            .rows = order.data(),
                            .hidden_size = columns,
                            .gamma = norm,
                            .beta = beta.data(),
                            .eps = 1e-5f,
                            .row_begin = 0,
                            .row_end = 3,
                            .packed = packed.args(nullptr, true, factors.data())});
        }
        Matrix smooth(3, columns);
        for (std::int64_t row = 0; row < 3; ++row) {
          for (std::int64_t i = 0; i < columns; ++i) {
            smooth(row, i) = static_cast<double>(rows[static_cast<std::size_t>(row * columns + i)]) *
                             static_cast<double>(factors[static_cast<std::size_t>(i)]);
          }
        }
        check_rotated(packed, smooth, 0, 3);
      }
    }
  }
}

// One large channel makes every other one coarse, unless rows are rotated first.
TEST(rotation_spares_the_neighbours_of_a_large_channel) {
  Random random(11);
  Matrix x = random_matrix(1, 768, random);
  x(0, 77) = 100.0;
  const std::vector<std::byte> source = row_major(x, ElementType::f32);
  for (const Kernels* tier : testable_kernels()) {
    Packed plain(ElementType::u8, 1, 768), rotated(ElementType::u8, 1, 768);
    const Entered entered(*tier);
    tier->quantize({ElementType::f32, source.data(), 768, 0, 1, plain.args()});
    tier->quantize({ElementType::f32, source.data(), 768, 0, 1, rotated.args(nullptr, true)});
    // Rotated rows are eight times as long.
    CHECK(static_cast<double>(rotated.scale(0, 0).scale) / 8.0 < 0.3 * static_cast<double>(plain.scale(0, 0).scale));
  }
}

// Chunk by chunk, each from a matrix of its own, rows become what they are when quantized whole.
TEST(quantize_of_single_chunks_is_that_of_whole_rows) {
  Random random(8);
  for (const ElementType source_type : {ElementType::f32, ElementType::bf16}) {
    for (const std::int64_t columns : {512, 1056, 3072}) {
      const Matrix x = random_matrix(21, columns, random, source_type, 3.0, 20.0);
      for (const Kernels* tier : testable_kernels()) {
        const bool rotated = columns != 512;
        Packed whole(ElementType::u8, x.rows, columns), parts(ElementType::u8, x.rows, columns);
        const Entered entered(*tier);
        const std::vector<std::byte> all = row_major(x, source_type);
        tier->quantize({source_type, all.data(), columns, 2, 20, whole.args(nullptr, rotated)});
        for (std::int64_t first = 0; first < columns; first += whole.chunk_columns()) {
          Matrix part(x.rows, std::min(whole.chunk_columns(), columns - first));
          for (std::int64_t row = 0; row < x.rows; ++row) {
            for (std::int64_t i = 0; i < part.columns; ++i) part(row, i) = x(row, first + i);
          }
          const std::vector<std::byte> source = row_major(part, source_type);
          tier->quantize({source_type, source.data(), part.columns, 2, 20, parts.args(nullptr, rotated), first});
        }
        parts.check_rest(2, 20);
        for (std::int64_t row = 2; row < 20; ++row) {
          for (std::int64_t i = 0; i < parts.tiles * 64; ++i) {
            CHECK(parts.level(row, i) == whole.level(row, i));
            if (i >= columns) continue;
            CHECK(parts.scale(row, i).scale == whole.scale(row, i).scale);
            CHECK(parts.scale(row, i).offset == whole.scale(row, i).offset);
          }
        }
      }
    }
  }
}

TEST(quantize_with_a_static_range_clamps) {
  Random random(6);
  const double range[] = {-0.75, 1.5};
  check_quantize(random_matrix(20, 832, random), ElementType::f32, 0, 20, range);
  check_quantize(random_matrix(20, 96, random, ElementType::bf16), ElementType::bf16, 3, 20, range);
}

TEST(quantize_of_constant_rows_keeps_their_value) {
  Matrix x(3, 64);
  for (std::int64_t i = 0; i < 64; ++i) {
    x(0, i) = 0.0;
    x(1, i) = -7.25;
    x(2, i) = 1e-20;
  }
  check_quantize(x, ElementType::f32, 0, 3, nullptr);
}

// A row with NaN or infinity must not become a row of numbers: its chunk's scale is NaN, and with it the product's row.
TEST(quantize_marks_nan_and_infinity_by_a_nan_scale) {
  Random random(7);
  const float range[] = {-2.0f, 2.0f};
  for (const ElementType source_type : {ElementType::f32, ElementType::bf16}) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity()}) {
      for (const std::int64_t column : {0, 500, 1000, 1055}) {
        Matrix x = random_matrix(3, 1056, random, source_type);
        x(1, column) = bad;
        const std::vector<std::byte> source = row_major(x, source_type);
        for (const Kernels* tier : testable_kernels()) {
          for (const auto& [static_range, rotated] :
               {std::pair<const float*, bool>(nullptr, false), std::pair<const float*, bool>(nullptr, true),
                std::pair<const float*, bool>(range, false)}) {
            Packed packed(ElementType::u8, 3, 1056);
            tier->quantize({source_type, source.data(), 1056, 0, 3, packed.args(static_range, rotated)});
            for (std::int64_t row = 0; row < 3; ++row) {
              for (std::int64_t i = 0; i < 1056; i += packed.chunk_columns()) {
                const bool marked = std::isnan(packed.scale(row, i).scale);
                CHECK(marked == (row == 1 && i / packed.chunk_columns() == column / packed.chunk_columns()));
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
