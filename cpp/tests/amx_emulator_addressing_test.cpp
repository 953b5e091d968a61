// Every addressing mode of LDTILECFG and TILELOADD, with every general register.
#include "amx_emulator_test.h"

#include <sys/mman.h>

#include "check.h"

namespace bert_op::testing {
namespace {

TileConfig global_config = TileConfig().set(1, 3, 8);
thread_local TileConfig thread_config = TileConfig().set(1, 4, 8);

TEST(config_is_addressed_in_every_way) {
  thread_config.rows[1] = 4;
  asm volatile("ldtilecfg %0" ::"m"(global_config) : "memory");  // RIP-relative
  CHECK(stored_config().rows[1] == 3);
  asm volatile("ldtilecfg %0" ::"m"(thread_config) : "memory");  // %fs, except in a shared library
  CHECK(stored_config().rows[1] == 4);
  const TileConfig* config = &global_config;
  for (long index : {0L, 3L, -2L}) {
    const std::intptr_t base = reinterpret_cast<std::intptr_t>(config) - 8 * index - 40;
    asm volatile("mov %0, %%r13\n mov %1, %%r12\n ldtilecfg 40(%%r13, %%r12, 8)" ::"r"(base), "r"(index)
                 : "r12", "r13", "memory");
    CHECK(stored_config().rows[1] == 3);
    _tile_release();
  }
  asm volatile("mov %0, %%r12\n ldtilecfg (%%r12)" ::"r"(config) : "r12", "memory");
  CHECK(stored_config().rows[1] == 3);
  asm volatile("mov %0, %%r13\n ldtilecfg (%%r13)" ::"r"(&thread_config) : "r13", "memory");
  CHECK(stored_config().rows[1] == 4);
  asm volatile("mov %0, %%r10\n ldtilecfg 0x12345(%%r10)" ::"r"(reinterpret_cast<std::intptr_t>(config) - 0x12345)
               : "r10", "memory");
  CHECK(stored_config().rows[1] == 3);
  _tile_release();
}

// One function for every base, index and scale, in this order: loads tile 1 from 0x48(base, index, scale),
// or, where the index is `riz`, from 0x48(base). It receives the base in rdi and the index in rsi. Another
// set uses a 32-bit displacement, another none.
asm(R"(
.macro amx_addressing base, index, scale, displacement
1:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  push %rdi
  push %rsi
.ifnc \index, riz
  mov (%rsp), %\index
.endif
  mov 8(%rsp), %\base
.ifc \index, riz
  tileloadd \displacement(%\base), %tmm1
.else
  tileloadd \displacement(%\base, %\index, \scale), %tmm1
.endif
  pop %rsi
  pop %rdi
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
  .pushsection .data.rel.ro.amx, "aw"
  .quad 1b
  .popsection
.endm
.macro amx_addressing_of_base base
.irp index, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, riz
  amx_addressing \base, \index, 1, 0x48
  amx_addressing \base, \index, 2, -0x12345
  amx_addressing \base, \index, 4,
  amx_addressing \base, \index, 8, -0x80
.endr
.endm
.pushsection .data.rel.ro.amx, "aw"
amx_addressing_functions:
.popsection
.irp base, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
amx_addressing_of_base \base
.endr
)");
extern "C" void (*const amx_addressing_functions[15][16][4])(const std::uint8_t* base, long index);

TEST(tiles_are_addressed_by_every_register) {
  std::mt19937 random(3);
  const Bytes source = random_bytes(4096, random);
  Bytes target(16 * 64);
  load_config(TileConfig().set(1, 9, 36));
  constexpr long kDisplacement[4] = {0x48, -0x12345, 0, -0x80};
  for (int base = 0; base < 15; ++base) {
    for (int index = 0; index < 16; ++index) {
      if (base == index) continue;
      for (int scale = 0; scale < 4; ++scale) {
        const long index_value = 13 + index;
        const long stride = index == 15 ? 0 : index_value << scale;
        memory_barrier();
        amx_addressing_functions[base][index][scale](source.data() + 128 - kDisplacement[scale], index_value);
        _tile_stored(1, target.data(), 64);
        bool equal = true;
        for (int i = 0; i < 9; ++i) equal &= std::memcmp(&target[64 * i], &source[128 + i * stride], 36) == 0;
        CHECK(equal);
      }
    }
  }
  // rsp as base; then no base at all, which leaves a 32-bit absolute displacement.
  Bytes stack_target(256);
  asm volatile(
      "sub $512, %%rsp\n tilestored %%tmm1, 256(%%rsp, %1)\n tileloadd 256(%%rsp, %1), %%tmm1\n"
      "add $512, %%rsp\n tilestored %%tmm1, (%0, %1)" ::"r"(stack_target.data()),
      "r"(20L)
      : "memory");
  CHECK(std::memcmp(&stack_target[8 * 20], &target[8 * 64], 36) == 0);
  void* low = mmap(reinterpret_cast<void*>(0x20000000), 4096, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(low == reinterpret_cast<void*>(0x20000000));
  if (low != MAP_FAILED) {
    std::memcpy(low, source.data(), 4096);
    asm volatile("tileloadd 0x20000010(, %0, 4), %%tmm1" ::"r"(25L) : "memory");
    _tile_stored(1, target.data(), 64);
    CHECK(std::memcmp(&target[64 * 8], &source[0x10 + 8 * 100], 36) == 0);
    munmap(low, 4096);
  }
  _tile_release();
}

}  // namespace
}  // namespace bert_op::testing
