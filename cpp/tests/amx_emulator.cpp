#include "amx_emulator.h"

#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

#include "amx_emulator_decode.h"

namespace bert_op::testing {
namespace {

constexpr int kTiles = 8;
constexpr int kRows = 16;
constexpr int kRowBytes = 64;
constexpr int kRowDwords = kRowBytes / 4;

// The 64 bytes that LDTILECFG reads and STTILECFG writes.
struct TileConfig {
  std::uint8_t palette_id;
  std::uint8_t start_row;
  std::uint8_t reserved_2[14];
  std::uint16_t colsb[kTiles];
  std::uint8_t reserved_32[16];
  std::uint8_t rows[kTiles];
  std::uint8_t reserved_56[8];
};
static_assert(sizeof(TileConfig) == 64);

struct alignas(64) Tile {
  std::uint8_t row[kRows][kRowBytes];
};

struct TileState {
  TileConfig config;  // palette_id 0: not configured
  Tile tile[kTiles];
};

// The faults come from instructions of the code under test, never from inside libc. The handler may therefore
// use what an asynchronous one may not, including the allocation behind the first access to this variable in
// a dlopen'ed library (9 KiB would not fit there as initial-exec TLS).
thread_local TileState tile_state;

std::atomic<std::uint64_t> instruction_count{0};
struct sigaction previous_action;

// dst (rows, 16) += a (rows, depth) * b (depth, 16), where every dword holds a bf16 pair (a: along k, b: VNNI
// layout). The SDM's order: even and odd products are summed apart, by fused multiply-adds along k, then both
// sums are added and the total is added to dst. noinline keeps the arithmetic between the changes of MXCSR.
[[gnu::target("avx2,fma"), gnu::noinline]] void accumulate_bf16(Tile& dst, const Tile& a, const Tile& b, int rows,
                                                                int depth) {
  alignas(32) float wide_b[kRows][2 * kRowDwords];
  for (int k = 0; k < depth; ++k) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m128i half = _mm_load_si128(reinterpret_cast<const __m128i*>(b.row[k]) + j);
      const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
      _mm256_store_ps(wide_b[k] + 8 * j, _mm256_castsi256_ps(bits));
    }
  }
  for (int m = 0; m < rows; ++m) {
    __m256 sums[4] = {};
    for (int k = 0; k < depth; ++k) {
      std::uint32_t pair;
      std::memcpy(&pair, a.row[m] + 4 * k, sizeof pair);
      const std::uint64_t wide = (std::uint64_t{pair & 0xFFFF0000u} << 32) | (pair << 16);
      const __m256 wide_a = _mm256_castsi256_ps(_mm256_set1_epi64x(static_cast<long long>(wide)));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[j] = _mm256_fmadd_ps(wide_a, _mm256_load_ps(wide_b[k] + 8 * j), sums[j]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256d mixed = _mm256_castps_pd(_mm256_hadd_ps(sums[2 * j], sums[2 * j + 1]));
      const __m256 total = _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xD8));  // hadd works per 128-bit lane
      float* out = reinterpret_cast<float*>(dst.row[m]) + 8 * j;
      _mm256_store_ps(out, _mm256_add_ps(_mm256_load_ps(out), total));
    }
  }
}

// As accumulate_bf16, with four 8-bit integers per dword and wrapping 32-bit sums (their order does not
// matter).
template <bool signed_a, bool signed_b>
[[gnu::target("avx2")]] void accumulate_int8(Tile& dst, const Tile& a, const Tile& b, int rows, int depth) {
  alignas(32) std::int16_t wide_b[kRows][kRowBytes];
  for (int k = 0; k < depth; ++k) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(b.row[k]) + j);
      const __m256i wide = signed_b ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
      _mm256_store_si256(reinterpret_cast<__m256i*>(wide_b[k]) + j, wide);
    }
  }
  for (int m = 0; m < rows; ++m) {
    __m256i sums[4] = {};
    for (int k = 0; k < depth; ++k) {
      const __m128i bytes = _mm_loadu_si32(a.row[m] + 4 * k);
      const __m256i wide_a = _mm256_broadcastq_epi64(signed_a ? _mm_cvtepi8_epi16(bytes) : _mm_cvtepu8_epi16(bytes));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m256i products = _mm256_load_si256(reinterpret_cast<const __m256i*>(wide_b[k]) + j);
        sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(wide_a, products));
      }
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256i total = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[2 * j], sums[2 * j + 1]), 0xD8);
      __m256i* out = reinterpret_cast<__m256i*>(dst.row[m]) + j;
      _mm256_store_si256(out, _mm256_add_epi32(_mm256_load_si256(out), total));
    }
  }
}

bool all_zero(const std::uint8_t* bytes, int count) {
  for (int i = 0; i < count; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

// Every execute_* function returns nullptr, or the rule of the SDM that the instruction breaks.

const char* execute_ldtilecfg(TileState& state, const std::uint8_t* address) {
  TileConfig config;
  std::memcpy(&config, address, sizeof config);
  if (config.palette_id > 1) return "#GP: palette above 1";
  if (config.palette_id == 1) {
    if (!all_zero(config.reserved_2, 14) || !all_zero(config.reserved_32, 16) || !all_zero(config.reserved_56, 8)) {
      return "#GP: reserved bytes of the tile configuration are not zero";
    }
    for (int i = 0; i < kTiles; ++i) {
      if (config.colsb[i] > kRowBytes) return "#GP: colsb above 64";
      if (config.rows[i] > kRows) return "#GP: rows above 16";
      if ((config.rows[i] == 0) != (config.colsb[i] == 0)) return "#GP: only one of rows and colsb is zero";
    }
  }
  std::memset(&state, 0, sizeof state);
  if (config.palette_id == 1) state.config = config;
  return nullptr;
}

const char* check_tile(const TileConfig& config, int tile) {
  if (config.palette_id == 0) return "#UD: no tile configuration is loaded";
  if (config.rows[tile] == 0) return "#UD: the tile has no rows in the loaded configuration";
  return nullptr;
}

const char* execute_memory(TileState& state, const Instruction& instruction) {
  const TileConfig& config = state.config;
  const int tile = instruction.reg;
  if (const char* broken = check_tile(config, tile)) return broken;
  const int rows = config.rows[tile];
  const int colsb = config.colsb[tile];
  if (colsb % 4 != 0) return "#UD: colsb is not a multiple of 4";
  if (config.start_row >= rows) return "#UD: start_row is not below the rows of the tile";

  std::uint8_t (*row)[kRowBytes] = state.tile[tile].row;
  const bool store = instruction.encoding->operation == Operation::tilestored;
  if (!store && config.start_row == 0) std::memset(row, 0, sizeof(Tile));
  for (int i = config.start_row; i < rows; ++i) {
    std::uint8_t* memory = instruction.address + i * instruction.row_stride;
    if (store) {
      std::memcpy(memory, row[i], colsb);
    } else {
      std::memcpy(row[i], memory, colsb);
      std::memset(row[i] + colsb, 0, kRowBytes - colsb);
    }
  }
  if (!store) std::memset(row[rows], 0, (kRows - rows) * kRowBytes);
  state.config.start_row = 0;
  return nullptr;
}

const char* execute_dot_product(TileState& state, const Instruction& instruction) {
  const TileConfig& config = state.config;
  const int dst = instruction.reg;
  const int a = instruction.rm;
  const int b = instruction.vvvv;
  if (dst == a || dst == b || a == b) return "#UD: the three tiles are not distinct";
  for (int tile : {dst, a, b}) {
    if (const char* broken = check_tile(config, tile)) return broken;
    if (config.colsb[tile] % 4 != 0) return "#UD: colsb is not a multiple of 4";
  }
  if (config.rows[dst] != config.rows[a]) return "#UD: destination and first source differ in rows";
  if (config.colsb[dst] != config.colsb[b]) return "#UD: destination and second source differ in colsb";
  if (config.colsb[a] / 4 != config.rows[b]) return "#UD: colsb / 4 of the first source is not the rows of the second";

  const int rows = config.rows[dst];
  const int depth = config.rows[b];
  Tile* tile = state.tile;
  switch (instruction.encoding->operation) {
    case Operation::tdpbf16ps: {
      const unsigned caller_mxcsr = _mm_getcsr();
      _mm_setcsr(0x9FC0);  // round to nearest even, flush to zero, denormals are zero, no exceptions
      accumulate_bf16(tile[dst], tile[a], tile[b], rows, depth);
      _mm_setcsr(caller_mxcsr);
      break;
    }
    case Operation::tdpbssd: accumulate_int8<true, true>(tile[dst], tile[a], tile[b], rows, depth); break;
    case Operation::tdpbsud: accumulate_int8<true, false>(tile[dst], tile[a], tile[b], rows, depth); break;
    case Operation::tdpbusd: accumulate_int8<false, true>(tile[dst], tile[a], tile[b], rows, depth); break;
    default: accumulate_int8<false, false>(tile[dst], tile[a], tile[b], rows, depth); break;
  }
  const int colsb = config.colsb[dst];
  for (int m = 0; m < rows; ++m) std::memset(tile[dst].row[m] + colsb, 0, kRowBytes - colsb);
  std::memset(tile[dst].row[rows], 0, (kRows - rows) * kRowBytes);
  state.config.start_row = 0;
  return nullptr;
}

const char* execute(TileState& state, const Instruction& instruction) {
  if (instruction.fault != nullptr) return instruction.fault;
  switch (instruction.encoding->operation) {
    case Operation::ldtilecfg: return execute_ldtilecfg(state, instruction.address);
    case Operation::sttilecfg: std::memcpy(instruction.address, &state.config, sizeof state.config); return nullptr;
    case Operation::tilerelease: std::memset(&state, 0, sizeof state); return nullptr;
    case Operation::tilezero: {
      if (const char* broken = check_tile(state.config, instruction.reg)) return broken;
      std::memset(&state.tile[instruction.reg], 0, sizeof(Tile));
      state.config.start_row = 0;
      return nullptr;
    }
    case Operation::tileloadd:
    case Operation::tileloaddt1:
    case Operation::tilestored: return execute_memory(state, instruction);
    default: return execute_dot_product(state, instruction);
  }
}

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler == SIG_DFL || previous_action.sa_handler == SIG_IGN) {
    // The default action then meets the same instruction again; a signal that was sent would not come back.
    ::signal(SIGILL, SIG_DFL);
    if (info->si_code <= 0) raise(SIGILL);
  } else {
    previous_action.sa_handler(signal);
  }
}

void report(const Instruction& instruction, const std::uint8_t* code, const char* broken) {
  char line[256];
  const int length = std::snprintf(line, sizeof line, "amx emulator: %s (reg %d, rm %d, vvvv %d) at %p: %s\n",
                                   instruction.encoding->name, instruction.reg, instruction.rm, instruction.vvvv,
                                   static_cast<const void*>(code), broken);
  if (write(STDERR_FILENO, line, length) < 0) return;  // nothing is left to report it to
}

void handle_illegal_instruction(int signal, siginfo_t* info, void* raw_context) {
  ucontext_t& context = *static_cast<ucontext_t*>(raw_context);
  greg_t& rip = context.uc_mcontext.gregs[REG_RIP];
  Instruction instruction;
  std::uint64_t count = 0;
  // A trap costs far more than the emulation, so the AMX instructions that directly follow are emulated with
  // it.
  while (info->si_code > 0 && decode(reinterpret_cast<const std::uint8_t*>(rip), context, instruction)) {
    if (const char* broken = execute(tile_state, instruction)) {
      if (count > 0) break;  // it traps again, then with its own siginfo
      report(instruction, reinterpret_cast<const std::uint8_t*>(rip), broken);
      return pass_on(signal, info, raw_context);
    }
    rip = reinterpret_cast<greg_t>(instruction.end);
    ++count;
  }
  if (count == 0) return pass_on(signal, info, raw_context);
  instruction_count.fetch_add(count, std::memory_order_relaxed);
}

bool install() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::fputs("amx emulator: needs AVX2 and FMA\n", stderr);
    return false;
  }
  struct sigaction action = {};
  action.sa_sigaction = handle_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  // previous_action must be known before the handler can run.
  return sigaction(SIGILL, nullptr, &previous_action) == 0 && sigaction(SIGILL, &action, nullptr) == 0;
}

}  // namespace

bool install_amx_emulator() {
  static const bool installed = install();
  return installed;
}

std::uint64_t emulated_instruction_count() { return instruction_count.load(std::memory_order_relaxed); }

}  // namespace bert_op::testing
