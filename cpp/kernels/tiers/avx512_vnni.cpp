#define BERT_OP_TIER tier_avx512_vnni
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx512_vnni;
const Kernels kernels_avx512_vnni = {
    "avx512_vnni",
    tier_avx512_vnni::enter,
    tier_avx512_vnni::leave,
    tier_avx512_vnni::gemm,
    tier_avx512_vnni::attention,
    tier_avx512_vnni::layer_norm,
    tier_avx512_vnni::quantize,
    nullptr,
    tier_avx512_vnni::peak,
};

}  // namespace bert_op
