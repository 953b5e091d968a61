#include "encoder/threads.h"

#include <omp.h>

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

#if defined(__SANITIZE_THREAD__)

// The thread sanitizer does not know libgomp's barriers and would report a race in every region. Threads that it does know
// let it see all that happens inside one.
thread_local bool in_region = false;

bool inside_region() { return in_region; }

void run_region(int threads, const std::function<void(int, int)>& body) {
  const auto run = [&](int thread) {
    in_region = true;
    body(thread, threads);
    in_region = false;
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
}

#else

bool inside_region() { return omp_in_parallel() != 0; }

void run_region(int threads, const std::function<void(int, int)>& body) {
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

#endif

}  // namespace

void run_parallel(int threads, const std::function<void(int, int)>& body) {
  if (threads <= 1 || inside_region()) return body(0, 1);
  std::exception_ptr first;
  std::mutex guard;
  run_region(threads, [&](int thread, int count) {
    try {
      body(thread, count);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

void Barrier::wait() {
  if (count_ == 1) return;
  const unsigned generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; generation_.load(std::memory_order_acquire) == generation; ++spin) {
    if (spin < tuning::kBarrierSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace bert_op
