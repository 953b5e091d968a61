// The barrier, the parallel region and the memory that a thread keeps.
#include "encoder/threads.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <atomic>
#include "encoder/workspace.h"

#include "tests/check.h"

namespace bert_op::testing {
namespace {

// Plain counters: a barrier that let a thread through early would also be a data race for a sanitizer to see.
TEST(barrier_lets_nobody_through_before_all_have_come) {
  for (const int count : {1, 2, 3, 5}) {
    Barrier barrier(count);
    constexpr int kRounds = 300;
    std::vector<int> rounds(static_cast<std::size_t>(count), 0);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < count; ++thread) {
      threads.emplace_back([&, thread] {
        for (int round = 1; round <= kRounds; ++round) {
          rounds[static_cast<std::size_t>(thread)] = round;
          barrier.wait();
          for (const int others : rounds) CHECK(others == round);
          barrier.wait();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(parallel_region_runs_every_thread_once) {
  for (const int threads : {1, 2, 5}) {
    std::vector<int> ran(5, 0);
    run_parallel(threads, [&](int thread, int count) {
      CHECK(count >= 1 && count <= threads && thread < count);
      ++ran[static_cast<std::size_t>(thread)];
    });
    CHECK(ran[0] == 1);
    for (const int times : ran) CHECK(times <= 1);
  }
}

TEST(parallel_region_hands_on_an_exception) {
  for (const int threads : {1, 3}) {
    std::string message;
    try {
      run_parallel(threads, [](int, int) { throw std::runtime_error("lost"); });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    CHECK(message == "lost");
  }
}

TEST(parallel_region_inside_another_is_serial) {
  run_parallel(2, [](int, int) {
    int calls = 0;
    run_parallel(4, [&](int thread, int count) {
      ++calls;
      CHECK(thread == 0 && count == 1);
    });
    CHECK(calls == 1);
  });
}

TEST(workspace_is_kept_grown_and_given_back) {
  std::byte* small = Workspace::of_this_thread(1000);
  CHECK(reinterpret_cast<std::uintptr_t>(small) % (std::size_t{2} << 20) == 0);
  CHECK(Workspace::of_this_thread(500) == small);
  std::byte* large = Workspace::of_this_thread(std::size_t{5} << 20);
  large[0] = large[(std::size_t{5} << 20) - 1] = std::byte{1};
  CHECK(Workspace::of_this_thread(1000) == large);
  std::byte* other = nullptr;
  std::thread([&] { other = Workspace::of_this_thread(1000); }).join();
  CHECK(other != large);
}

TEST(pieces_are_pages_of_their_own) {
  Pieces counted(nullptr);
  CHECK(counted.take(1) == nullptr);
  CHECK(counted.take(5000) == nullptr);
  CHECK(counted.take(0) == nullptr);
  CHECK(counted.used() == 3 * 4096);
  std::vector<std::byte> memory(counted.used());
  Pieces pieces(memory.data());
  CHECK(pieces.take(1) == memory.data());
  CHECK(pieces.take(5000) == memory.data() + 4096);
  pieces.rewind(4096);
  CHECK(pieces.take(8) == memory.data() + 4096);
}

#if defined(__x86_64__)
TEST(threads_of_a_region_treat_denormal_numbers_as_the_caller_does) {
  constexpr unsigned kFlushToZero = 0x8000;
  const unsigned before = __builtin_ia32_stmxcsr();
  for (const unsigned mode : {before & ~kFlushToZero, before | kFlushToZero}) {
    __builtin_ia32_ldmxcsr(mode);
    std::atomic<int> same{0};
    run_parallel(3,
                 [&](int, int) { same += (__builtin_ia32_stmxcsr() & kFlushToZero) == (mode & kFlushToZero) ? 1 : 0; });
    CHECK(same == 3);
    CHECK((__builtin_ia32_stmxcsr() & kFlushToZero) == (mode & kFlushToZero));
  }
  __builtin_ia32_ldmxcsr(before);
}
#endif

}  // namespace
}  // namespace bert_op::testing
