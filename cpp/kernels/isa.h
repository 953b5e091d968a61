// Which instruction-set tier this process runs: detected once, capped by BERT_OP_MAX_ISA.
#pragma once

#include <string>
#include <vector>

namespace bert_op {

// Ordered: a later tier can do all that an earlier one can, and is faster (avx512 without VNNI in floats only); but avx2_vnni,
// which is between two of them, is not on every CPU that has a later one.
enum class Isa { portable, avx2, avx2_vnni, avx512, avx512_vnni, amx };

const char* isa_name(Isa isa);

// Throws std::invalid_argument, listing the known names.
Isa parse_isa(const std::string& name);

// The best tier that CPU, operating system and (for AMX) this process's permissions allow. Cached.
Isa detected_isa();

// True when the CPU has AVX512_BF16 and the operating system saves its state.
bool has_avx512_bf16();

// True when the CPU has AVX-VNNI, which multiplies bytes on 256 bits without any AVX-512.
bool has_avx_vnni();

// True when kernels of the tier run on this CPU.
bool is_available(Isa isa);

// detected_isa(), or the tier named by the environment variable BERT_OP_MAX_ISA. Read once per process.
// Throws std::runtime_error when the variable names no tier, or one that this CPU lacks.
Isa active_isa();

// All tiers of this CPU, the slowest first.
std::vector<Isa> available_isas();

}  // namespace bert_op
