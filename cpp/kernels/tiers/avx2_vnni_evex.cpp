// The same for CPUs with AVX512VL and AVX512_VNNI, but without AVX-VNNI: there the tier is for tests, as avx512_vnni is faster.
#define BERT_OP_TIER tier_avx2_vnni_evex
#define BERT_OP_TIER_VNNI256 "%{evex%}"
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_avx2_vnni_evex;
const Kernels kernels_avx2_vnni_evex = {
    "avx2_vnni",
    tier_avx2_vnni_evex::enter,
    tier_avx2_vnni_evex::leave,
    tier_avx2_vnni_evex::gemm,
    tier_avx2_vnni_evex::attention,
    tier_avx2_vnni_evex::layer_norm,
    tier_avx2_vnni_evex::quantize,
    nullptr,
    tier_avx2_vnni_evex::peak,
};

}  // namespace bert_op
