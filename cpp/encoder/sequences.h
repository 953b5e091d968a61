// Which positions of a call are computed, and what mask is left for them.
#pragma once

#include <cstdint>
#include <vector>

namespace bert_op {

// Added to the scaled scores: value(batch, head, query, key) = data[batch * batch_stride + head * head_stride +
// query * row_stride + key]. A stride of 0 broadcasts. Null data: no mask.
struct Mask {
  const float* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
};

// One sequence's computed positions, next to each other in packed rows.
struct Sequence {
  std::int64_t first;  // index of its first position in Sequences::positions
  std::int64_t length;
  std::int64_t mask;              // index of its mask in Sequences::masks, or -1: none
  std::int64_t mask_head_stride;  // 0: the same for every head
  std::int64_t mask_row_stride;   // 0: the same for every query
};

struct Sequences {
  std::vector<Sequence> items;          // those with at least one position
  std::vector<std::int64_t> positions;  // batch * seq_len + position of every computed row
  std::vector<float> masks;
};

// skip_padding: positions that no query attends are left out. A mask value of -1000 or less counts as "not attended": its
// softmax weight is exactly zero in fp32 beside any key that is attended.
Sequences find_sequences(std::int64_t batch, std::int64_t seq_len, std::int64_t heads, const Mask& mask,
                         bool skip_padding);

}  // namespace bert_op
