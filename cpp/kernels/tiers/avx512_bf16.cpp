#define BERT_OP_TIER tier_avx512_bf16
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx512_bf16;
const Kernels kernels_avx512_bf16 = {
    "avx512_bf16",
    tier_avx512_bf16::enter,
    tier_avx512_bf16::leave,
    tier_avx512_bf16::gemm,
    tier_avx512_bf16::attention,
    tier_avx512_bf16::layer_norm,
    tier_avx512_bf16::quantize,
    nullptr,
    tier_avx512_bf16::peak,
};

}  // namespace bert_op
