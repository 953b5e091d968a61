// Memory of one call: a buffer that the calling thread keeps for its next call, cut into aligned pieces.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bert_op {

// 2 MiB-aligned memory in huge pages where the system has them. Throws std::bad_alloc.
std::byte* allocate_huge(std::size_t bytes);
void free_huge(std::byte* memory);

class Workspace {
 public:
  // The calling thread's buffer, at least `bytes` long. It grows by being replaced; contents are undefined.
  static std::byte* of_this_thread(std::size_t bytes);
  // Frees the calling thread's buffer when it is too large to be worth keeping.
  static void trim_this_thread();
};

// Counts or hands out pieces of 4 KiB alignment (their own pages: threads do not share cache lines).
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}

  std::byte* take(std::int64_t bytes) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::size_t>(bytes) + 4095) / 4096 * 4096;
    return at;
  }
  std::size_t used() const { return used_; }
  void rewind(std::size_t to) { used_ = to; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace bert_op
