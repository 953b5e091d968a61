// What this build is and runs on, as JSON. Shared by the torch library and the Python module.
#pragma once

#include <cstdint>
#include <string>

#include "encoder/shape.h"

namespace bert_op {

// `extra` is appended inside the object: "" or "\"key\": \"value\"" pairs joined by commas.
// Throws std::runtime_error when BERT_OP_MAX_ISA names no tier of this CPU.
std::string build_info_json(const std::string& extra);

// What a packed model of this many bytes holds, as JSON.
std::string packed_json(const ModelShape& shape, std::int64_t bytes);

}  // namespace bert_op
