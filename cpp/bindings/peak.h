// The roof that a kernel's rate is held against.
#pragma once

#include <string>

namespace bert_op {

// Operations per second of one thread that does nothing but the densest multiply-add on registers, over about `seconds` (0 to
// 60). type: f32, bf16 or u8; isa: a tier of this CPU, or "" for the one in use. Throws std::invalid_argument.
double measure_peak(const std::string& type, double seconds, const std::string& isa);

}  // namespace bert_op
