#include "encoder/sequences.h"

#include <algorithm>

namespace bert_op {
namespace {

constexpr float kNotAttended = -1000.0f;

// Mask of one batch element, broadcast dimensions collapsed to one.
struct Plane {
  const float* data;
  std::int64_t heads;
  std::int64_t rows;
  std::int64_t head_stride;
  std::int64_t row_stride;

  const float* row(std::int64_t head, std::int64_t query) const {
    return data + head * head_stride + query * row_stride;
  }
};

// Whether anything attends each key. A NaN counts as attended: it must reach the result.
void find_attended(const Plane& plane, std::int64_t seq_len, std::vector<char>& attended) {
  std::fill(attended.begin(), attended.end(), char{0});
  for (std::int64_t head = 0; head < plane.heads; ++head) {
    for (std::int64_t query = 0; query < plane.rows; ++query) {
      const float* row = plane.row(head, query);
      for (std::int64_t key = 0; key < seq_len; ++key) attended[key] |= !(row[key] <= kNotAttended);
    }
  }
}

// Copies the mask's entries at the kept positions; returns where they stand, or -1 when they are all zero.
std::int64_t gather_mask(const Plane& plane, const std::int64_t* kept, std::int64_t count, bool rows_kept,
                         std::vector<float>& masks) {
  const std::size_t start = masks.size();
  bool any = false;
  for (std::int64_t head = 0; head < plane.heads; ++head) {
    for (std::int64_t i = 0; i < (rows_kept ? count : 1); ++i) {
      const float* row = plane.row(head, rows_kept ? kept[i] : 0);
      for (std::int64_t j = 0; j < count; ++j) {
        any |= row[kept[j]] != 0.0f;
        masks.push_back(row[kept[j]]);
      }
    }
  }
  if (any) return static_cast<std::int64_t>(start);
  masks.resize(start);
  return -1;
}

}  // namespace

Sequences find_sequences(std::int64_t batch, std::int64_t seq_len, std::int64_t heads, const Mask& mask,
                         bool skip_padding) {
  Sequences found;
  found.positions.reserve(static_cast<std::size_t>(batch * seq_len));
  std::vector<char> attended(static_cast<std::size_t>(seq_len), char{1});
  std::vector<std::int64_t> kept;
  for (std::int64_t b = 0; b < batch; ++b) {
    const bool per_head = mask.data != nullptr && mask.head_stride != 0;
    const bool per_row = mask.data != nullptr && mask.row_stride != 0;
    const Plane plane{mask.data + b * mask.batch_stride, per_head ? heads : 1, per_row ? seq_len : 1, mask.head_stride,
                      mask.row_stride};
    if (mask.data != nullptr && skip_padding) find_attended(plane, seq_len, attended);
    kept.clear();
    for (std::int64_t position = 0; position < seq_len; ++position) {
      if (attended[position]) kept.push_back(position);
    }
    if (kept.empty()) continue;
    const auto length = static_cast<std::int64_t>(kept.size());
    Sequence sequence{.first = static_cast<std::int64_t>(found.positions.size()),
                      .length = length,
                      .mask = -1,
                      .mask_head_stride = per_head ? length * (per_row ? length : 1) : 0,
                      .mask_row_stride = per_row ? length : 0};
    if (mask.data != nullptr) sequence.mask = gather_mask(plane, kept.data(), length, per_row, found.masks);
    for (const std::int64_t position : kept) found.positions.push_back(b * seq_len + position);
    found.items.push_back(sequence);
  }
  return found;
}

}  // namespace bert_op
