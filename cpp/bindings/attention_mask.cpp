#include "bindings/attention_mask.h"

#include <cstring>
#include <limits>

namespace bert_op {

namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// True when every query row of a 4-D mask is like the first, as Hugging Face expands a mask of keys.
bool rows_alike(const TensorView& mask) {
  if (mask.strides[3] != 1) return false;
  std::int64_t element_bytes = 0;
  with_elements(nullptr, mask.dtype,
                [&](auto* element) { element_bytes = static_cast<std::int64_t>(sizeof *element); });
  const auto* base = static_cast<const char*>(mask.data);
  const auto row_bytes = static_cast<std::size_t>(mask.sizes[3] * element_bytes);
  for (std::int64_t b = 0; b < mask.sizes[0]; ++b) {
    for (std::int64_t head = 0; head < mask.sizes[1]; ++head) {
      const char* first = base + (b * mask.strides[0] + head * mask.strides[1]) * element_bytes;
      for (std::int64_t row = 1; row < mask.sizes[2]; ++row) {
        if (std::memcmp(first, first + row * mask.strides[2] * element_bytes, row_bytes) != 0) return false;
      }
    }
  }
  return true;
}

// Dimensions that only repeat themselves, at size 1.
void drop_repetitions(TensorView& mask) {
  for (std::size_t dim = 0; dim < 3; ++dim) {
    if (mask.strides[dim] == 0) mask.sizes[dim] = 1;
  }
  if (mask.sizes[2] > 1 && rows_alike(mask)) mask.sizes[2] = 1;
}

Mask mask_of(const float* data, const TensorView& shape, const std::vector<std::int64_t>& strides) {
  const auto stride = [&](std::size_t dim) { return shape.sizes[dim] == 1 ? std::int64_t{0} : strides[dim]; };
  return {data, stride(0), stride(1), stride(2)};
}

// convert(element) of a 4-D mask, row-major, its last dimension widened to seq_len.
template <class Convert>
AdditiveMask converted(TensorView mask, std::int64_t seq_len, const Convert& convert) {
  if (mask.sizes[3] != seq_len) {
    mask.sizes[3] = seq_len;
    mask.strides[3] = 0;
  }
  AdditiveMask made{{}, std::unique_ptr<float[]>(new float[static_cast<std::size_t>(mask.count())])};
  float* to = made.memory.get();
  with_elements(mask.data, mask.dtype, [&](const auto* elements) {
    for_each_element(elements, mask.sizes, mask.strides, [&](auto element) { *to++ = convert(element); });
  });
  const std::int64_t row = seq_len, head = mask.sizes[2] * row, sequence = mask.sizes[1] * head;
  made.mask = mask_of(made.memory.get(), mask, {sequence, head, row, 1});
  return made;
}

}  // namespace

AdditiveMask additive_mask(const TensorView& mask, std::int64_t batch, std::int64_t heads, std::int64_t seq_len) {
  const std::vector<std::int64_t>& sizes = mask.sizes;
  const auto fits = [](std::int64_t size, std::int64_t full) { return size == 1 || size == full; };
  const auto attended = [](auto element) {
    return static_cast<float>(element) != 0.0f ? 0.0f : kHidden;  // a NaN is no zero
  };
  if (sizes.size() == 2 && fits(sizes[0], batch) && sizes[1] == seq_len) {
    require(mask.dtype != Dtype::other, "bert_op::encoder: attention_mask has dtype ", mask.dtype_name,
            ", which is no real number");
    const TensorView of_keys{
        mask.data, {sizes[0], 1, 1, sizes[1]}, {mask.strides[0], 0, 0, mask.strides[1]}, mask.dtype, mask.dtype_name};
    return converted(of_keys, seq_len, attended);
  }
  require(sizes.size() == 4 && fits(sizes[0], batch) && fits(sizes[1], heads) && fits(sizes[2], seq_len) &&
              fits(sizes[3], seq_len),
          "bert_op::encoder: attention_mask has shape ", shape_text(sizes), ", expected ", shape_text({batch, seq_len}),
          " or ", shape_text({batch, 1, seq_len, seq_len}), ", where batch, heads, queries and keys may be 1");
  require(
      mask.dtype == Dtype::boolean || is_floating_point(mask.dtype),
      "bert_op::encoder: a 4-D attention_mask must be bool (True = attend) or floating-point (added to the scores), "
      "not ",
      mask.dtype_name);
  TensorView view = mask;
  drop_repetitions(view);
  if (mask.dtype == Dtype::boolean) return converted(view, seq_len, attended);
  if (mask.dtype == Dtype::f32 && view.strides[3] == 1 && view.sizes[3] == seq_len) {
    return {mask_of(static_cast<const float*>(view.data), view, view.strides), nullptr};
  }
  return converted(view, seq_len, [](auto element) { return static_cast<float>(element); });
}

}  // namespace bert_op
