// The whole encoder in one call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "encoder/sequences.h"
#include "encoder/shape.h"
#include "kernels/isa.h"

namespace bert_op {

struct EncoderCall {
  const std::byte* arena;        // packed model, checked by read_head
  ModelShape shape;
  const float* hidden_states;    // [batch][seq_len][hidden_size]
  float* result;                 // the same, not overlapping
  std::int64_t batch;
  std::int64_t seq_len;
  Mask mask;
  bool skip_padding = false;     // leave out positions that no query attends; their result is zero
  int threads = 1;
  Isa isa = Isa::portable;
};

// Reads the arena only, so calls on one arena may run at the same time. Throws std::bad_alloc.
void run_encoder(const EncoderCall& call);

}  // namespace bert_op
