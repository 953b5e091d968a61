#include "encoder/threads.h"

#include <omp.h>

#include <exception>
#include <mutex>
#include <thread>

#include "encoder/tuning.h"

namespace bert_op {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void run_parallel(int threads, const std::function<void(int, int)>& body) {
  if (threads <= 1 || omp_in_parallel()) return body(0, 1);
  std::exception_ptr first;
  std::mutex guard;
#pragma omp parallel num_threads(threads)
  {
    try {
      body(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
    }
  }
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
