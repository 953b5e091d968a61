#include "encoder/threads.h"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "encoder/tuning.h"

namespace bert_op {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// How a thread rounds and what it does with denormal numbers. torch.set_flush_denormal sets it for the calling thread alone; the
// result must not depend on which thread computes a row.
#if defined(__x86_64__)
unsigned float_mode() { return __builtin_ia32_stmxcsr(); }
void set_float_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#else
unsigned float_mode() { return 0; }
void set_float_mode(unsigned) {}
#endif

thread_local bool in_region = false;

std::atomic<Pool> pool{start_threads};

}  // namespace

void start_threads(int threads, const Region& region) {
  if (in_region) return region(0, 1);
  const auto run = [&](int thread) {
    in_region = true;
    region(thread, threads);
    in_region = false;
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
}

void use_pool(Pool chosen) { pool.store(chosen); }

void run_parallel(int threads, const Region& body) {
  if (threads <= 1) return body(0, 1);
  std::exception_ptr first;
  std::mutex guard;
  constexpr unsigned kFlags = 0x3f;  // what has happened so far is each thread's own
  const unsigned mode = float_mode() & ~kFlags;
  pool.load()(threads, [&](int thread, int count) {
    const unsigned own = float_mode();
    set_float_mode(mode | (own & kFlags));
    try {
      body(thread, count);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
    }
    set_float_mode(own);
  });
  if (first) std::rethrow_exception(first);
}

void Barrier::wait() {
  if (count_ == 1) return;
  const unsigned generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  for (int spin = 0; spin < tuning::kBarrierSpins + tuning::kBarrierYields; ++spin) {
    if (generation_.load(std::memory_order_acquire) != generation) return;
    if (spin < tuning::kBarrierSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  generation_.wait(generation, std::memory_order_acquire);
}

}  // namespace bert_op
