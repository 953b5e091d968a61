// Executes AMX instructions, emulated or on hardware: configuration, loads and stores, faults, signals.
// amx_emulator_addressing_test.cpp and amx_emulator_dot_product_test.cpp belong to the same program.
#include "amx_emulator.h"

#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "amx_emulator_test.h"
#include "check.h"

namespace bert_op::testing {

bool runs_on_amx_hardware() {
  static const bool granted = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kAmx = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kAmx) != kAmx) return false;
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
  }();
  return granted;
}

namespace {

TEST(config_is_loaded_stored_and_released) {
  TileConfig config;
  config.set(0, 16, 64).set(3, 5, 12).set(7, 1, 4).start_row = 2;
  load_config(config);
  CHECK(std::memcmp(std::array{stored_config()}.data(), &config, 64) == 0);
  _tile_release();
  const TileConfig released = stored_config();
  CHECK(std::all_of(reinterpret_cast<const char*>(&released), reinterpret_cast<const char*>(&released + 1),
                    [](char byte) { return byte == 0; }));
  load_config(config);
  config.palette_id = 0;
  load_config(config);
  CHECK(stored_config().palette_id == 0 && stored_config().rows[0] == 0);
}

// Loads rows of `colsb` bytes, stores them elsewhere, and compares also what must stay untouched.
void check_load_and_store(int rows, int colsb, long load_stride, long store_stride, std::mt19937& random) {
  const long extent = 16 * 200;
  const Bytes source = random_bytes(2 * extent + 64, random);
  Bytes target = random_bytes(2 * extent + 64, random);
  Bytes expected = target;
  for (int i = 0; i < rows; ++i) {
    std::memcpy(&expected[extent + i * store_stride], &source[extent + i * load_stride], colsb);
  }
  load_config(TileConfig().set(0, rows, colsb).set(6, rows, colsb));
  memory_barrier();
  _tile_loadd(0, &source[extent], load_stride);
  _tile_stored(0, &target[extent], store_stride);
  CHECK(target == expected);
  Bytes again = source;
  memory_barrier();
  _tile_stream_loadd(6, &source[extent], load_stride);
  _tile_stored(6, &again[extent], load_stride);
  CHECK(again == source);
}

TEST(tiles_are_loaded_and_stored_with_strides) {
  std::mt19937 random(1);
  for (int rows : {1, 7, 16}) {
    for (int colsb : {4, 20, 64}) {
      for (long stride : {64L, 65L, 100L, 200L, -64L, -129L}) {
        check_load_and_store(rows, colsb, stride, 72, random);
        check_load_and_store(rows, colsb, 77, stride, random);
      }
      check_load_and_store(rows, colsb, 0, 64, random);
    }
  }
  _tile_release();
}

TEST(load_clears_what_lies_outside_the_shape_and_zero_clears_all) {
  std::mt19937 random(2);
  const Bytes source = random_bytes(1024, random);
  Bytes target(1024);
  // start_row keeps the rows before it and is reset by the instruction that it applies to.
  TileConfig config;
  config.set(2, 10, 16).start_row = 4;
  load_config(config);
  memory_barrier();
  _tile_loadd(2, source.data(), 64);
  CHECK(stored_config().start_row == 0);
  _tile_stored(2, target.data(), 64);
  for (int i = 0; i < 10; ++i) {
    for (int j = 0; j < 16; ++j) CHECK(target[64 * i + j] == (i < 4 ? 0 : source[64 * i + j]));
  }
  _tile_zero(2);
  _tile_stored(2, target.data(), 64);
  for (int i = 0; i < 10; ++i) {
    for (int j = 0; j < 16; ++j) CHECK(target[64 * i + j] == 0);
  }
  // A new configuration clears the tiles.
  _tile_loadd(2, source.data(), 64);
  load_config(TileConfig().set(2, 16, 64));
  _tile_stored(2, target.data(), 64);
  CHECK(std::all_of(target.begin(), target.end(), [](std::uint8_t byte) { return byte == 0; }));
  _tile_release();
}

TEST(other_registers_and_flags_survive) {
  load_config(TileConfig().set(0, 16, 64).set(1, 16, 64).set(2, 16, 64));
  std::uint64_t low = 0, carry = 0, red_zone = 0;
  asm volatile(
      "mov $0x123456789, %%rax\n movq %%rax, %%xmm15\n movq %%rax, -64(%%rsp)\n stc\n"
      "tdpbf16ps %%tmm0, %%tmm1, %%tmm2\n"
      "setc %b1\n movq %%xmm15, %0\n mov -64(%%rsp), %2"
      : "=r"(low), "+r"(carry), "=r"(red_zone)
      :
      : "rax", "xmm15", "cc", "memory");
  CHECK(low == 0x123456789 && carry == 1 && red_zone == 0x123456789);
  _tile_release();
}

TEST(count_is_that_of_the_emulated_instructions) {
  const std::uint64_t before = emulated_instruction_count();
  load_config(TileConfig().set(0, 16, 64));  // 1
  _tile_zero(0);                             // 2, 3 directly behind each other
  _tile_zero(0);
  asm volatile("nop");
  _tile_zero(0);  // 4
  _tile_release();
  CHECK(emulated_instruction_count() - before == (runs_on_amx_hardware() ? 0u : 5u));
}

struct Death {
  int signal;  // 0: exited
  int status;  // exit status
  std::string message;
};

Death run_in_child(void (*body)()) {
  int ends[2];
  if (pipe(ends) != 0) return {};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    body();
    _exit(0);
  }
  close(ends[1]);
  Death death = {};
  char buffer[512];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) death.message.append(buffer, count);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status))
    death.signal = WTERMSIG(status);
  else
    death.status = WEXITSTATUS(status);
  return death;
}

TEST(other_illegal_instructions_still_kill) {
  const Death death = run_in_child([] { asm volatile("ud2"); });
  CHECK(death.signal == SIGILL && death.message.empty());
  const Death sent = run_in_child([] { raise(SIGILL); });
  CHECK(sent.signal == SIGILL && sent.message.empty());
  const Death after_amx = run_in_child([] { asm volatile("tilerelease\n ud2"); });
  CHECK(after_amx.signal == SIGILL && after_amx.message.empty());
}

const Rows kSource = {};

TEST(broken_rules_kill_with_a_message) {
  struct {
    void (*body)();
    const char* message;
  } cases[] = {
      {[] {
         _tile_release();
         _tile_zero(0);
       },
       "tilezero (reg 0"},
      {[] {
         load_config(TileConfig().set(0, 1, 4));
         _tile_zero(1);
       },
       "no rows"},
      {[] {
         load_config(TileConfig().set(0, 4, 6));
         _tile_loadd(0, &kSource, 0);
       },
       "multiple of 4"},
      {[] {
         TileConfig config;
         config.set(0, 4, 8).start_row = 4;
         load_config(config);
         _tile_loadd(0, &kSource, 0);
       },
       "start_row"},
      {[] {
         load_config(TileConfig().set(0, 4, 16).set(1, 4, 16));
         asm volatile(".byte 0xC4, 0xE2, 0x73, 0x5E, 0xC1");  // tdpbssd tmm0, tmm1, tmm1
       },
       "distinct"},
      {[] {
         load_config(TileConfig().set(0, 4, 16).set(1, 5, 16).set(2, 4, 16));
         _tile_dpbssd(0, 1, 2);
       },
       "in rows"},
      {[] {
         load_config(TileConfig().set(0, 4, 20).set(1, 4, 16).set(2, 4, 16));
         _tile_dpbuud(0, 1, 2);
       },
       "in colsb"},
      {[] {
         load_config(TileConfig().set(0, 4, 16).set(1, 4, 20).set(2, 4, 16));
         _tile_dpbf16ps(0, 1, 2);
       },
       "rows of the"},
      {[] { load_config(TileConfig().set(0, 17, 16)); }, "rows above 16"},
      {[] { load_config(TileConfig().set(0, 16, 65)); }, "colsb above 64"},
      {[] { load_config(TileConfig().set(0, 16, 0)); }, "only one"},
      {[] {
         TileConfig config;
         config.palette_id = 2;
         load_config(config);
       },
       "palette"},
      {[] {
         TileConfig config;
         config.reserved_32[15] = 1;
         load_config(config);
       },
       "reserved"},
  };
  for (const auto& [body, message] : cases) {
    const Death death = run_in_child(body);
    if (runs_on_amx_hardware()) {
      CHECK(death.signal == SIGILL || death.signal == SIGSEGV);
      continue;
    }
    CHECK(death.signal == SIGILL);
    if (death.message.find(message) == std::string::npos) {
      std::fprintf(stderr, "expected '%s' in '%s'\n", message, death.message.c_str());
      CHECK(!"message");
    }
  }
}

// Runs before the emulator is installed in this process, because a handler must be there first.
void check_that_an_earlier_handler_is_called() {
  const Death death = run_in_child([] {
    struct sigaction action = {};
    action.sa_handler = [](int) { _exit(42); };
    sigaction(SIGILL, &action, nullptr);
    if (!install_amx_emulator() || !install_amx_emulator()) _exit(1);
    asm volatile("ud2");
  });
  const bool called = death.signal == 0 && death.status == 42;
  std::printf("%s an_earlier_handler_is_called\n", called ? "PASS" : "FAIL");
  if (!called) std::exit(1);
}

template <class Body>
double microseconds_per_call(int calls, Body body) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) body();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / calls;
}

void print_timing() {
  load_config(TileConfig().set(0, 16, 64).set(1, 16, 64).set(2, 16, 64));
  const double alone = microseconds_per_call(5000, [] { asm volatile("tdpbf16ps %tmm2, %tmm1, %tmm0\n nop"); });
  const double bf16 =
      microseconds_per_call(200, [] { asm volatile(".rept 100\n tdpbf16ps %tmm2, %tmm1, %tmm0\n .endr\n nop"); });
  const double int8 =
      microseconds_per_call(200, [] { asm volatile(".rept 100\n tdpbusd %tmm2, %tmm1, %tmm0\n .endr\n nop"); });
  _tile_release();
  std::printf("one 16x16 dot product: %.2f us alone; %.2f us (bf16), %.2f us (int8) within 100 in a row\n", alone,
              bf16 / 100, int8 / 100);
}

}  // namespace
}  // namespace bert_op::testing

int main(int argc, char** argv) {
  using namespace bert_op::testing;
  check_that_an_earlier_handler_is_called();
  if (!install_amx_emulator()) return 1;
  std::printf("AMX instructions are %s\n", runs_on_amx_hardware() ? "executed by the hardware" : "emulated");
  const int status = run_tests(argc, argv);
  print_timing();
  return status;
}
