// The op leaves a thread's AMX configuration as it found it.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tests/check.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

struct alignas(64) Config {
  std::uint8_t palette = 0, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

TEST(amx_configuration_is_given_back) {
#if defined(__x86_64__)
  for (const Kernels* tier : testable_kernels()) {
    if (std::strcmp(tier->name, "amx") != 0) continue;
    Config theirs;  // what another library of the thread might use: two small tiles
    theirs.palette = 1;
    theirs.row_bytes[0] = theirs.row_bytes[1] = 32;
    theirs.rows[0] = theirs.rows[1] = 8;
    Config during, after, released;
    asm volatile("ldtilecfg %0" : : "m"(theirs) : "memory");
    {
      const Entered entered(*tier);
      asm volatile("sttilecfg %0" : "=m"(during) : : "memory");
    }
    asm volatile("sttilecfg %0\n\ttilerelease" : "=m"(after) : : "memory");
    CHECK(during.rows[0] == 16);
    CHECK(std::memcmp(&theirs, &after, sizeof theirs) == 0);
    {
      const Entered entered(*tier);
    }
    asm volatile("sttilecfg %0" : "=m"(released) : : "memory");
    CHECK(released.palette == 0);
    return;
  }
#endif
  std::puts("no AMX and no emulation of it on this machine: not tested");
}

}  // namespace
}  // namespace bert_op::testing
