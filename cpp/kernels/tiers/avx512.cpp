#define BERT_OP_TIER tier_avx512
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = {
    "avx512",
    tier_avx512::enter,
    tier_avx512::leave,
    tier_avx512::gemm,
    tier_avx512::attention,
    tier_avx512::layer_norm,
    tier_avx512::quantize,
    nullptr,
    tier_avx512::peak,
};

}  // namespace bert_op
