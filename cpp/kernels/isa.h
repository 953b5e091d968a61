// Which instruction-set tier this process runs: detected once, capped by BERT_OP_MAX_ISA.
#pragma once

#include <string>
#include <vector>

namespace bert_op {

// Ordered: a later tier can do all that an earlier one can.
enum class Isa { portable, avx2, avx512, avx512_vnni, amx };

const char* isa_name(Isa isa);

// Throws std::invalid_argument, listing the known names.
Isa parse_isa(const std::string& name);

// The best tier that CPU, operating system and (for AMX) this process's permissions allow. Cached.
Isa detected_isa();

// True when the CPU has AVX512_BF16 and the operating system saves its state.
bool has_avx512_bf16();

// detected_isa(), or the tier named by the environment variable BERT_OP_MAX_ISA. Read once per process.
// Throws std::runtime_error when the variable names no tier, or one that this CPU lacks.
Isa active_isa();

// All tiers up to detected_isa(), the slowest first.
std::vector<Isa> available_isas();

}  // namespace bert_op
