#include "tests/operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bert_op::testing {
namespace {

std::byte pattern(std::int64_t index) { return static_cast<std::byte>(index * 37 + index / 256 + 11); }

}  // namespace

GuardedBytes::GuardedBytes(std::int64_t bytes)
    : bytes_(bytes), memory_(static_cast<std::size_t>(bytes + 2 * kGuard + 64)),
      expected_(static_cast<std::size_t>(bytes)) {
  void* aligned = memory_.data();
  std::size_t space = memory_.size();
  start_ = static_cast<std::byte*>(std::align(64, static_cast<std::size_t>(bytes + 2 * kGuard), aligned, space));
  for (std::int64_t i = 0; i < bytes + 2 * kGuard; ++i) start_[i] = pattern(i);
}

void GuardedBytes::expect(std::int64_t offset, std::int64_t bytes) {
  std::fill_n(expected_.begin() + offset, bytes, char{1});
}

bool GuardedBytes::rest_untouched() const {
  for (std::int64_t i = 0; i < bytes_ + 2 * kGuard; ++i) {
    const std::int64_t inside = i - kGuard;
    if (inside >= 0 && inside < bytes_ && expected_[static_cast<std::size_t>(inside)]) continue;
    if (start_[i] != pattern(i)) return false;
  }
  return true;
}

float bf16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

std::uint16_t float_to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double representable(ElementType type, double value) {
  const auto single = static_cast<float>(value);
  return type == ElementType::bf16 ? bf16_to_float(float_to_bf16(single)) : single;
}

double read_element(ElementType type, const std::byte* at) {
  if (type == ElementType::bf16) {
    std::uint16_t bits;
    std::memcpy(&bits, at, 2);
    return bf16_to_float(bits);
  }
  float value;
  std::memcpy(&value, at, 4);
  return value;
}

void write_element(ElementType type, std::byte* at, double value) {
  const auto single = static_cast<float>(value);
  const std::uint16_t half = std::isnan(single) ? std::uint16_t{0x7fc0} : float_to_bf16(single);
  if (type == ElementType::bf16) {
    std::memcpy(at, &half, 2);
  } else {
    std::memcpy(at, &single, 4);
  }
}

std::int64_t activation_offset(ElementType type, std::int64_t tiles, std::int64_t row, std::int64_t k) {
  const std::int64_t bytes = element_bytes(type), per_tile = 64 / bytes;
  return (row / 16 * tiles + k / per_tile) * 1024 + row % 16 * 64 + k % per_tile * bytes;
}

std::int64_t weight_offset(ElementType type, std::int64_t tiles, std::int64_t column, std::int64_t k) {
  const std::int64_t bytes = element_bytes(type), per_group = 4 / bytes, group = k / per_group;
  return (column / 32 * tiles + group / 16) * 2048 + column % 32 / 16 * 1024 + group % 16 * 64 + column % 16 * 4 +
         k % per_group * bytes;
}

Matrix random_matrix(std::int64_t rows, std::int64_t columns, Random& random, ElementType type, double deviation,
                     double mean) {
  std::normal_distribution<double> normal(mean, deviation);
  Matrix matrix(rows, columns);
  for (double& value : matrix.values) value = representable(type, normal(random));
  return matrix;
}

std::vector<std::byte> row_major(const Matrix& matrix, ElementType type) {
  const std::int64_t bytes = element_bytes(type);
  std::vector<std::byte> memory(matrix.values.size() * static_cast<std::size_t>(bytes));
  std::byte* at = memory.data();
  for (const double value : matrix.values) {
    write_element(type, at, value);
    at += bytes;
  }
  return memory;
}

std::vector<float> floats_of(const std::vector<double>& values) { return {values.begin(), values.end()}; }

GemmOperands::GemmOperands(ElementType operand_type, std::int64_t row_count, std::int64_t k_count,
                           std::int64_t column_count, Random& random)
    : type(operand_type), rows(row_count), k(k_count), columns(column_count), tiles(k_tiles(type, k)),
      chunks(chunk_count(type, tiles)), x(rows, k), weight(columns, k), bias(random_matrix(1, columns, random).values),
      a(static_cast<std::size_t>(activation_bytes(rows, tiles))),
      b(static_cast<std::size_t>(columns / kPanelColumns * tiles * kPanelTileBytes)), packed_bias(floats_of(bias)),
      partial_(std::make_unique<GuardedBytes>(round_up(rows, kRowBlock) * kPanelColumns * 4)) {
  partial_->expect(0, round_up(rows, kRowBlock) * kPanelColumns * 4);
  if (type == ElementType::u8) {
    make_bytes(random);
  } else {
    make_floats(random);
  }
}

void GemmOperands::make_floats(Random& random) {
  x = random_matrix(rows, k, random, type);
  weight = random_matrix(columns, k, random, type, 1.0 / std::sqrt(static_cast<double>(k)));
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t row = 0; row < rows; ++row) {
      write_element(type, a.data() + activation_offset(type, tiles, row, i), x(row, i));
    }
    for (std::int64_t n = 0; n < columns; ++n) {
      write_element(type, b.data() + weight_offset(type, tiles, n, i), weight(n, i));
    }
  }
  magnitude_of_x_ = x;
}

void GemmOperands::make_bytes(Random& random) {
  std::uniform_int_distribution<int> level(0, 255), weight_level(-127, 127);
  std::uniform_real_distribution<float> unit(0.5f, 1.5f);
  const std::int64_t chunk_columns = chunk_tiles(type, tiles) * kTileRowBytes;
  for (std::int64_t i = 0; i < rows * chunks; ++i) row_scale.push_back({unit(random) / 100.0f, unit(random) - 2.0f});
  for (std::int64_t i = 0; i < chunks * columns; ++i) weight_scale.push_back(unit(random) / 100.0f);
  column_sum.assign(static_cast<std::size_t>(chunks * columns), 0.0f);
  magnitude_of_x_ = Matrix(rows, k);
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t chunk = i / chunk_columns;
    for (std::int64_t row = 0; row < rows; ++row) {
      const RowScale scale = row_scale[static_cast<std::size_t>(row * chunks + chunk)];
      const int drawn = level(random);
      a[static_cast<std::size_t>(activation_offset(type, tiles, row, i))] = static_cast<std::byte>(drawn);
      x(row, i) = scale.offset + static_cast<double>(scale.scale) * drawn;
      magnitude_of_x_(row, i) = std::abs(scale.offset) + static_cast<double>(scale.scale) * drawn;
    }
    for (std::int64_t n = 0; n < columns; ++n) {
      const int drawn = weight_level(random);
      b[static_cast<std::size_t>(weight_offset(type, tiles, n, i))] = static_cast<std::byte>(drawn);
      weight(n, i) = static_cast<double>(weight_scale[static_cast<std::size_t>(chunk * columns + n)]) * drawn;
      column_sum[static_cast<std::size_t>(chunk * columns + n)] += static_cast<float>(drawn);
    }
  }
  for (std::size_t i = 0; i < column_sum.size(); ++i) {
    column_sum[i] *= weight_scale[i];
  }
}

GemmArgs GemmOperands::args(const Kernels& tier) {
  if (type == ElementType::f32 && tier.split_bytes != nullptr && split_ == nullptr) {
    const std::int64_t bytes = tier.split_bytes(rows, tiles);
    split_ = std::make_unique<GuardedBytes>(bytes);
    split_->expect(0, bytes);
  }
  return {.type = type,
          .rows = rows,
          .tiles = tiles,
          .a = a.data(),
          .b = b.data(),
          .bias = packed_bias.data(),
          .weight_scale = weight_scale.data(),
          .column_sum = column_sum.data(),
          .row_scale = row_scale.data(),
          .columns = columns,
          .panel_begin = 0,
          .panel_end = columns / kPanelColumns,
          .partial = partial_->floats(),
          .split = tier.split_bytes != nullptr && split_ != nullptr ? split_->data() : nullptr};
}

Matrix GemmOperands::expected(Activation activation) const { return reference::gemm(x, weight, bias, activation); }

Matrix GemmOperands::magnitude() const {
  const auto absolute = [](Matrix matrix) {
    for (double& value : matrix.values) value = std::abs(value);
    return matrix;
  };
  Matrix bias_row(1, columns);
  bias_row.values = bias;
  return reference::gemm(absolute(magnitude_of_x_), absolute(weight), absolute(bias_row).values, Activation::none);
}

}  // namespace bert_op::testing
