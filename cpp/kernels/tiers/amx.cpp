#define BERT_OP_TIER tier_amx
#define BERT_OP_TIER_MICRO "kernels/simd/amx_micro.h"
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_amx;
const Kernels kernels_amx = {
    "amx",
    tier_amx::enter,
    tier_amx::leave,
    tier_amx::gemm,
    tier_amx::attention,
    tier_amx::layer_norm,
    tier_amx::quantize,
    tier_amx::split_bytes,
    tier_amx::peak,
};

}  // namespace bert_op
