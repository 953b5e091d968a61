#include "bindings/tensor_view.h"

#include <cstring>

namespace bert_op {

namespace {

float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

// The exponent's bias differs by 112, which a multiplication mends for denormals too; infinity and NaN keep theirs.
Float16::operator float() const {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16, magnitude = std::uint32_t{bits & 0x7fffu} << 13;
  const float value = (bits & 0x7c00u) == 0x7c00u ? float_of(magnitude | 0x7f800000u) : float_of(magnitude) * 0x1p112f;
  std::uint32_t same;
  std::memcpy(&same, &value, sizeof same);
  return float_of(same | sign);
}

BFloat16::operator float() const { return float_of(std::uint32_t{bits} << 16); }

std::int64_t TensorView::count() const {
  std::int64_t elements = 1;
  for (const std::int64_t size : sizes) elements *= size;
  return elements;
}

bool TensorView::is_row_major() const {
  std::int64_t stride = 1;
  for (std::size_t dim = sizes.size(); dim-- > 0;) {
    if (sizes[dim] != 1 && strides[dim] != stride) return false;
    stride *= sizes[dim];
  }
  return true;
}

std::string shape_text(const std::vector<std::int64_t>& sizes) {
  std::string text = "(";
  for (std::size_t dim = 0; dim < sizes.size(); ++dim) text += (dim == 0 ? "" : ", ") + std::to_string(sizes[dim]);
  return text + ")";
}

Floats::Floats(const TensorView& view) {
  if (view.dtype == Dtype::f32 && view.is_row_major()) {
    data_ = static_cast<const float*>(view.data);
    return;
  }
  copy_.reset(new float[static_cast<std::size_t>(view.count())]);
  data_ = copy_.get();
  float* to = copy_.get();
  const bool real = with_elements(view.data, view.dtype, [&](const auto* elements) {
    for_each_element(elements, view.sizes, view.strides, [&](auto element) { *to++ = static_cast<float>(element); });
  });
  require(real, "dtype ", view.dtype_name, " is of no real number");
}

}  // namespace bert_op
