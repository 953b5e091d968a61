// Operands for kernel tests: random values, packed element by element as kernels/layout.h describes it, and buffers that
// notice what is written outside of a result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace bert_op::testing {

using reference::Matrix;
using Random = std::mt19937;

// 64-byte aligned bytes with a known pattern, also for kGuard bytes before and behind them.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::int64_t bytes);
  std::byte* data() { return start_ + kGuard; }
  const std::byte* data() const { return start_ + kGuard; }
  float* floats() { return reinterpret_cast<float*>(data()); }

  // The test expects these bytes to be written.
  void expect(std::int64_t offset, std::int64_t bytes);
  // True when every byte that is not expected to be written still holds the pattern.
  bool rest_untouched() const;

 private:
  static constexpr std::int64_t kGuard = 4096;
  std::int64_t bytes_;
  std::vector<std::byte> memory_;
  std::vector<char> expected_;
  std::byte* start_;
};

float bf16_to_float(std::uint16_t bits);
std::uint16_t float_to_bf16(float value);  // to nearest even; the value must not be NaN

// The nearest value that the type holds: of fp32 or bf16.
double representable(ElementType type, double value);

// Element of type f32 or bf16 in memory.
double read_element(ElementType type, const std::byte* at);
void write_element(ElementType type, std::byte* at, double value);

// Byte offsets of kernels/layout.h.
std::int64_t activation_offset(ElementType type, std::int64_t tiles, std::int64_t row, std::int64_t k);
std::int64_t weight_offset(ElementType type, std::int64_t tiles, std::int64_t column, std::int64_t k);

// Values of a normal distribution that `type` (f32 or bf16) holds exactly.
Matrix random_matrix(std::int64_t rows, std::int64_t columns, Random& random, ElementType type = ElementType::f32,
                     double deviation = 1.0, double mean = 0.0);

std::vector<std::byte> row_major(const Matrix& matrix, ElementType type);
std::vector<float> floats_of(const std::vector<double>& values);

// Both operands of a product, in the kernels' form and as the reference takes them.
class GemmOperands {
 public:
  GemmOperands(ElementType type, std::int64_t rows, std::int64_t k, std::int64_t columns, Random& random);
  GemmOperands(const GemmOperands&) = delete;
  GemmOperands& operator=(const GemmOperands&) = delete;

  // All but activation and output, with all the scratch that the tier can use. The scratch is this object's: one call at
  // a time.
  GemmArgs args(const Kernels& tier);
  Matrix expected(Activation activation) const;
  // The sum of the magnitudes that each result is made of: rounding errors are relative to it.
  Matrix magnitude() const;
  bool scratch_intact() const { return partial_->rest_untouched() && (!split_ || split_->rest_untouched()); }

  ElementType type;
  std::int64_t rows, k, columns, tiles, chunks;
  Matrix x, weight;  // what the elements stand for
  std::vector<double> bias;
  std::vector<std::byte> a, b;      // packed
  std::vector<RowScale> row_scale;  // u8: [rows][chunks]
  std::vector<float> weight_scale, column_sum, packed_bias;

 private:
  void make_floats(Random& random);
  void make_bytes(Random& random);

  Matrix magnitude_of_x_;
  std::unique_ptr<GuardedBytes> partial_;
  std::unique_ptr<GuardedBytes> split_;
};

}  // namespace bert_op::testing
