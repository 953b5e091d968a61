// CPUID, XCR0 and the kernel's AMX permission. Compiled without any ISA flag.
#include "kernels/isa.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#include <csetjmp>
#include <csignal>
#endif
#ifdef BERT_OP_AMX_EMULATION
#include "tests/amx_emulator.h"
#endif

namespace bert_op {
namespace {

constexpr std::array<const char*, 6> kNames = {"portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "amx"};

struct CpuFeatures {
  bool avx2 = false;
  bool avx_vnni = false;
  bool avx512 = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx = false;
};

#if defined(__x86_64__)

bool bit(unsigned value, int index) { return ((value >> index) & 1u) != 0; }

std::uint64_t read_xcr0() {
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

// Linux hands out the 8 KiB of tile state on request only (Documentation/arch/x86/xstate.rst).
bool request_amx_permission() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtileData) == 0;
#else
  return false;
#endif
}

#if defined(__linux__)
sigjmp_buf after_fault;

void on_fault(int) { siglongjmp(after_fault, 1); }

// Some virtual machines announce AMX and fault on its use: run one tile product, ready to be thrown out of it.
bool tile_product_works() {
  struct alignas(64) Config {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16};
  };
  static const Config config;
  struct sigaction handler{}, ill{}, segv{};  // a general protection fault arrives as the second one
  handler.sa_handler = on_fault;
  sigemptyset(&handler.sa_mask);
  if (sigaction(SIGILL, &handler, &ill) != 0 || sigaction(SIGSEGV, &handler, &segv) != 0) return false;
  bool works = false;
  if (sigsetjmp(after_fault, 1) == 0) {
    // ldtilecfg; tilezero tmm0-2; tdpbf16ps tmm0, tmm1, tmm2; tilerelease: as bytes, for assemblers without AMX
    asm volatile(
        ".byte 0xc4, 0xe2, 0x78, 0x49, 0x00\n\t"
        ".byte 0xc4, 0xe2, 0x7b, 0x49, 0xc0\n\t"
        ".byte 0xc4, 0xe2, 0x7b, 0x49, 0xc8\n\t"
        ".byte 0xc4, 0xe2, 0x7b, 0x49, 0xd0\n\t"
        ".byte 0xc4, 0xe2, 0x6a, 0x5c, 0xc1\n\t"
        ".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0"
        :
        : "a"(&config), "m"(config)
        : "memory");
    works = true;
  }
  sigaction(SIGSEGV, &segv, nullptr);
  sigaction(SIGILL, &ill, nullptr);
  return works;
}
#else
bool tile_product_works() { return false; }
#endif

CpuFeatures probe() {
  CpuFeatures found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return found;  // no OSXSAVE: xgetbv would fault
  const bool fma = bit(c, 12), f16c = bit(c, 29);
  const std::uint64_t xcr0 = read_xcr0();
  const bool ymm_saved = (xcr0 & 0x6) == 0x6;
  const bool zmm_saved = (xcr0 & 0xe6) == 0xe6;
  const bool tiles_saved = (xcr0 & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned max_subleaf = a;
  found.avx2 = ymm_saved && fma && f16c && bit(b, 5);
  found.avx512 = found.avx2 && zmm_saved && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F DQ BW VL
  found.avx512_vnni = found.avx512 && bit(c, 11);
  const bool amx_bf16 = bit(d, 22), amx_tile = bit(d, 24), amx_int8 = bit(d, 25);
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    found.avx_vnni = found.avx2 && bit(a, 4);
    found.avx512_bf16 = found.avx512 && bit(a, 5);
  }
  found.amx = found.avx512_vnni && found.avx512_bf16 && tiles_saved && amx_tile && amx_bf16 && amx_int8 &&
              request_amx_permission() && tile_product_works();
  return found;
}

#else

CpuFeatures probe() { return {}; }

#endif

const CpuFeatures& features() {
  static const CpuFeatures found = [] {
    CpuFeatures probed = probe();
#ifdef BERT_OP_AMX_EMULATION
    if (!probed.amx && probed.avx512_bf16 && probed.avx512_vnni) probed.amx = testing::install_amx_emulator();
#endif
    return probed;
  }();
  return found;
}

std::string known_names() {
  std::string all;
  for (const char* name : kNames) all += all.empty() ? name : std::string(", ") + name;
  return all;
}

Isa read_active_isa() {
  const char* requested = std::getenv("BERT_OP_MAX_ISA");
  if (requested == nullptr || *requested == '\0') return detected_isa();
  Isa isa;
  try {
    isa = parse_isa(requested);
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error(std::string("BERT_OP_MAX_ISA: ") + error.what());
  }
  if (!is_available(isa)) {
    throw std::runtime_error(std::string("BERT_OP_MAX_ISA=") + requested + ": this CPU " +
                             (isa > detected_isa() ? "goes up to " : "has no bytes' products on 256 bits, but ") +
                             isa_name(detected_isa()));
  }
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<std::size_t>(isa)]; }

Isa parse_isa(const std::string& name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<Isa>(i);
  }
  throw std::invalid_argument("'" + name + "' is no instruction-set tier; known are " + known_names());
}

Isa detected_isa() {
  const CpuFeatures& cpu = features();
  if (cpu.amx) return Isa::amx;
  if (cpu.avx512_vnni) return Isa::avx512_vnni;
  if (cpu.avx512) return Isa::avx512;
  if (cpu.avx_vnni) return Isa::avx2_vnni;
  if (cpu.avx2) return Isa::avx2;
  return Isa::portable;
}

bool has_avx512_bf16() { return features().avx512_bf16; }

bool has_avx_vnni() { return features().avx_vnni; }

bool is_available(Isa isa) {
  // AVX512VL has the same instruction on the same registers, in another encoding.
  if (isa == Isa::avx2_vnni) return features().avx_vnni || features().avx512_vnni;
  return isa <= detected_isa();
}

Isa active_isa() {
  static const Isa isa = read_active_isa();
  return isa;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i <= static_cast<int>(detected_isa()); ++i) {
    if (is_available(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

}  // namespace bert_op
