// Numbers that come from the machine or from measuring it, all in one place.
#pragma once

#include <cstdint>

#include "encoder/shape.h"

namespace bert_op::tuning {

// Bytes of the L2 cache of one core, as the operating system tells; 1 MiB where it does not.
std::int64_t l2_bytes();

// Rows of one slice: the widest activations (the input of the last linear layer) take three quarters of L2.
std::int64_t slice_rows(const ModelShape& shape);

// Rows that a linear layer takes through all its panels together, when a row has `row_bytes`: its activations and the stream
// of weights share L2. A multiple of kRowBlock.
std::int64_t pass_rows(std::int64_t rows, std::int64_t row_bytes);

// The most that pass_rows answers for up to `rows` rows.
std::int64_t max_pass_rows(std::int64_t rows, std::int64_t row_bytes);

// Who waits in a barrier spins this often, some microseconds, then gives up the processor this often, then sleeps: where there
// are fewer cores than threads, who is waited for may not be running.
constexpr int kBarrierSpins = 200, kBarrierYields = 50;

// A workspace larger than this is freed after the call instead of being kept for the next one.
constexpr std::int64_t kKeptWorkspaceBytes = std::int64_t{256} << 20;

}  // namespace bert_op::tuning
