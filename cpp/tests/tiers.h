// The kernels that this machine can run, for tests that must hold on each of them.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace bert_op::testing {

// kernels(isa) of every available tier, and those that the dispatcher passes over on this CPU (avx512_vnni, where there is
// AVX512_BF16). Test programs contain an isa.cpp of their own, which adds AMX by emulation where the CPU lacks it.
std::vector<const Kernels*> testable_kernels();

// enter() and leave() around kernel calls.
class Entered {
 public:
  explicit Entered(const Kernels& kernels) : kernels_(kernels) { kernels_.enter(); }
  ~Entered() { kernels_.leave(); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  const Kernels& kernels_;
};

}  // namespace bert_op::testing
