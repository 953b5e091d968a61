// The whole encoder in one call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "encoder/plan.h"
#include "encoder/sequences.h"
#include "encoder/shape.h"
#include "kernels/isa.h"

namespace bert_op {

enum class Phase : std::uint8_t {
  gather,  // input rows to their places, packed for the first linear layer
  qkv,
  attention,
  attention_output,  // int8: quantization of its input included; so in `output`
  attention_norm,
  intermediate,  // with its activation
  output,
  output_norm,
};
constexpr std::size_t kPhases = 8;
const char* phase_name(Phase phase);

// Where the time of a call went, as seen by its first thread, waiting for others included.
struct Profile {
  std::array<double, kPhases> seconds{};
  std::array<double, kPhases> operations{};  // multiplications and additions of the matrix products, of all threads
};

struct EncoderCall {
  const std::byte* arena;  // packed model, checked by read_head
  ModelShape shape;
  const float* hidden_states;  // [batch][seq_len][hidden_size]
  float* result;               // the same, not overlapping
  std::int64_t batch;
  std::int64_t seq_len;
  Mask mask;
  bool skip_padding = false;  // leave out positions that no query attends; their result is zero
  int threads = 1;
  Isa isa = Isa::portable;
  Profile* profile = nullptr;  // filled in when given
};

// Bytes of scratch that a call by this plan takes, beside the result.
std::size_t workspace_bytes(const ModelShape& shape, Isa isa, const Plan& plan);

// Reads the arena only, so calls on one arena may run at the same time. Throws std::bad_alloc.
void run_encoder(const EncoderCall& call);

}  // namespace bert_op
