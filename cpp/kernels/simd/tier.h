// Compiles the kernel text of this folder for one tier. A file under tiers/ defines BERT_OP_TIER (a namespace) and includes
// this one; CMakeLists.txt gives that file its instruction-set flags. Tiers without a multiplier of their own use VectorMicro.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/kernels.h"
#include "kernels/rotation.h"

namespace bert_op::BERT_OP_TIER {
// clang-format off: the order matters, each builds on those before it
#include "kernels/simd/vec.h"
#include "kernels/simd/math.h"
#include "kernels/simd/micro.h"
#ifdef BERT_OP_TIER_MICRO
#include BERT_OP_TIER_MICRO
#else
namespace {
template <class T>
using Micro = VectorMicro<T>;
void nothing_to_do() {}
constexpr auto enter = nothing_to_do;
constexpr auto leave = nothing_to_do;
}  // namespace
#endif
#include "kernels/simd/gemm.h"
#ifdef BERT_OP_TIER_MICRO
#include "kernels/simd/amx_split.h"
#endif
#include "kernels/simd/rotate.h"
#include "kernels/simd/rows.h"
#include "kernels/simd/attention.h"
#include "kernels/simd/peak.h"
// clang-format on
}  // namespace bert_op::BERT_OP_TIER
