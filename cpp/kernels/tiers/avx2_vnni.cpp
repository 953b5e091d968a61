// vpdpbusd as AVX-VNNI encodes it: Intel since Alder Lake, AMD since Zen 5, and every efficiency core.
#define BERT_OP_TIER tier_avx2_vnni
#define BERT_OP_TIER_VNNI256 "%{vex%}"
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx2_vnni;
const Kernels kernels_avx2_vnni = {
    "avx2_vnni",
    tier_avx2_vnni::enter,
    tier_avx2_vnni::leave,
    tier_avx2_vnni::gemm,
    tier_avx2_vnni::attention,
    tier_avx2_vnni::layer_norm,
    tier_avx2_vnni::quantize,
    nullptr,
    tier_avx2_vnni::peak,
};

}  // namespace bert_op
