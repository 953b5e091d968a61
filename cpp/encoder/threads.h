// One parallel region for a whole call, on threads that the host lends, and a barrier for the teams inside it.
#pragma once

#include <atomic>
#include <functional>

namespace bert_op {

using Region = std::function<void(int thread, int threads)>;

// Runs body(thread, threads) on `threads` threads at once, or on fewer when there are fewer: `threads` says how many came.
// All of them round and treat denormal numbers as the calling thread does. The first exception of a thread is thrown again after all have ended; a body that waits in a barrier must not throw.
void run_parallel(int threads, const Region& body);

// Runs a region that throws nothing. It may bring fewer threads than are asked for, but those that it says came run at once.
using Pool = void (*)(int threads, const Region& region);

// A pool that starts threads for each region and ends them after it; within a region of its own it takes none more.
void start_threads(int threads, const Region& region);

// From here on regions run in `pool`. Without one they start threads, which costs more and is for tests: an OpenMP of our own
// beside the host's would be a second pool on the same cores, and the thread sanitizer knows no OpenMP.
void use_pool(Pool pool);

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  // Returns when all `count` threads have called it. Spins first, then yields the processor, then sleeps.
  void wait();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

}  // namespace bert_op
