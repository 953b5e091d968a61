#define BERT_OP_TIER tier_portable
#include "kernels/simd/tier.h"

namespace bert_op {

extern const Kernels kernels_portable;
const Kernels kernels_portable = {
    "portable",
    tier_portable::enter,
    tier_portable::leave,
    tier_portable::gemm,
    tier_portable::attention,
    tier_portable::layer_norm,
    tier_portable::quantize,
    nullptr,
    tier_portable::peak,
};

}  // namespace bert_op
