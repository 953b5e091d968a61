// One parallel region for a whole call, on the OpenMP pool that torch uses too, and a barrier for the teams inside it.
#pragma once

#include <atomic>
#include <functional>

namespace bert_op {

// Runs body(thread, threads) on `threads` threads at once, or on fewer when the runtime gives fewer: `threads` says how many
// came. The first exception of a thread is thrown again after all have ended; a body that waits in a barrier must not throw.
void run_parallel(int threads, const std::function<void(int thread, int threads)>& body);

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  // Returns when all `count` threads have called it. Spins first, then yields the processor.
  void wait();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

}  // namespace bert_op
