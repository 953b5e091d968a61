// What this build is and runs on, as JSON. Shared by the torch library and the Python module.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "encoder/shape.h"
#include "kernels/isa.h"

namespace bert_op {

// `extra` is appended inside the object: "" or "\"key\": \"value\"" pairs joined by commas.
// Throws std::runtime_error when BERT_OP_MAX_ISA names no tier of this CPU.
std::string build_info_json(const std::string& extra);

// What a packed model of this many bytes holds, as JSON.
std::string packed_json(const ModelShape& shape, std::int64_t bytes);

// How sequences of these lengths are computed, and what the cost model says of it, as JSON.
std::string plan_json(const ModelShape& shape, Isa isa, const std::vector<std::int64_t>& lengths, int threads);

}  // namespace bert_op
