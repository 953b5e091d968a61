#define BERT_OP_TIER tier_avx2
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = {
    "avx2",
    tier_avx2::enter,
    tier_avx2::leave,
    tier_avx2::gemm,
    tier_avx2::attention,
    tier_avx2::layer_norm,
    tier_avx2::quantize,
    nullptr,
    tier_avx2::peak,
};

}  // namespace bert_op
