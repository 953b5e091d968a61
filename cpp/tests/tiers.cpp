#include "tests/tiers.h"

#include <cstdio>

namespace bert_op {

extern const Kernels kernels_avx512_vnni;
extern const Kernels kernels_avx2_vnni_evex;

namespace testing {

std::vector<const Kernels*> testable_kernels() {
  std::vector<const Kernels*> found;
  for (const Isa isa : available_isas()) {
#if defined(__x86_64__)
    if (isa == Isa::avx2_vnni && has_avx_vnni() && is_available(Isa::avx512_vnni))
      found.push_back(&kernels_avx2_vnni_evex);
    if (isa == Isa::avx512_vnni && has_avx512_bf16()) found.push_back(&kernels_avx512_vnni);
#endif
    found.push_back(&kernels(isa));
  }
  static const bool said = [&] {
    std::printf("kernels of this machine:");
    for (const Kernels* tier : found) std::printf(" %s", tier->name);
    std::printf("\n");
    return true;
  }();
  (void)said;
  return found;
}

}  // namespace testing
}  // namespace bert_op
