// Every form of attention mask that the encoder operator takes, as the numbers that are added to the scores.
#pragma once

#include <memory>

#include "bindings/tensor_view.h"
#include "encoder/sequences.h"

namespace bert_op {

// A mask for the encoder, and the memory that it needs if it could not stay where it was.
struct AdditiveMask {
  Mask mask;
  std::unique_ptr<float[]> memory;
};

// mask: (B or 1, S), nonzero = attend; or (B or 1, heads or 1, S or 1, S or 1), bool with true = attend, or floating point,
// added to the scores. Its memory has to live as long as the result.
// Throws std::runtime_error for any other mask.
AdditiveMask additive_mask(const TensorView& mask, std::int64_t batch, std::int64_t heads, std::int64_t seq_len);

}  // namespace bert_op
