// A strided tensor on the CPU as plain values, and how its elements are read. Knows no torch.
#pragma once

#include <cstdint>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace bert_op {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) fail(parts...);
}

enum class Dtype : std::uint8_t { boolean, u8, i8, i16, i32, i64, f16, bf16, f32, f64, other };

inline bool is_floating_point(Dtype dtype) { return dtype >= Dtype::f16 && dtype <= Dtype::f64; }

struct TensorView {
  const void* data;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;  // in elements
  Dtype dtype;
  const char* dtype_name;  // as torch says it

  std::int64_t count() const;
  bool is_row_major() const;
};

std::string shape_text(const std::vector<std::int64_t>& sizes);  // "(2, 5, 64)"

// The 16-bit floating-point types as memory has them.
struct Float16 {
  std::uint16_t bits;
  operator float() const;
};
struct BFloat16 {
  std::uint16_t bits;
  operator float() const;
};

// Calls call(pointer to the first element, of the right type); false for a dtype that is none of the real numbers.
template <class Call>
bool with_elements(const void* data, Dtype dtype, const Call& call) {
  switch (dtype) {
    case Dtype::boolean: return call(static_cast<const bool*>(data)), true;
    case Dtype::u8: return call(static_cast<const std::uint8_t*>(data)), true;
    case Dtype::i8: return call(static_cast<const std::int8_t*>(data)), true;
    case Dtype::i16: return call(static_cast<const std::int16_t*>(data)), true;
    case Dtype::i32: return call(static_cast<const std::int32_t*>(data)), true;
    case Dtype::i64: return call(static_cast<const std::int64_t*>(data)), true;
    case Dtype::f16: return call(static_cast<const Float16*>(data)), true;
    case Dtype::bf16: return call(static_cast<const BFloat16*>(data)), true;
    case Dtype::f32: return call(static_cast<const float*>(data)), true;
    case Dtype::f64: return call(static_cast<const double*>(data)), true;
    case Dtype::other: break;
  }
  return false;
}

// Calls visit(element) for all of them, row-major.
template <class Element, class Visit>
void for_each_element(const Element* base, const std::vector<std::int64_t>& sizes,
                      const std::vector<std::int64_t>& strides, const Visit& visit) {
  const std::size_t outer = sizes.empty() ? 0 : sizes.size() - 1;
  std::int64_t rows = 1;
  for (std::size_t dim = 0; dim < outer; ++dim) rows *= sizes[dim];
  const std::int64_t columns = sizes.empty() ? 1 : sizes.back(), step = sizes.empty() ? 0 : strides.back();
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t offset = 0, rest = row;
    for (std::size_t dim = outer; dim-- > 0;) {
      offset += rest % sizes[dim] * strides[dim];
      rest /= sizes[dim];
    }
    for (std::int64_t column = 0; column < columns; ++column) visit(base[offset + column * step]);
  }
}

// Elements row-major and in fp32: where they are, if they are so already, else a copy. Throws for a dtype of no real number.
class Floats {
 public:
  explicit Floats(const TensorView& view);
  const float* data() const { return data_; }

 private:
  std::unique_ptr<float[]> copy_;
  const float* data_;
};

}  // namespace bert_op
