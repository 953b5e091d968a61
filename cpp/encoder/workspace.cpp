#include "encoder/workspace.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "encoder/tuning.h"

namespace bert_op {
namespace {

struct Buffer {
  std::byte* memory = nullptr;
  std::size_t bytes = 0;

  void release() {
    free_huge(memory);
    memory = nullptr;
    bytes = 0;
  }
  ~Buffer() { release(); }
};

thread_local Buffer buffer;

}  // namespace

std::byte* allocate_huge(std::size_t bytes) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const std::size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, rounded);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, rounded, MADV_HUGEPAGE);  // a wish: where it is not granted, small pages work too
#endif
  return static_cast<std::byte*>(memory);
}

void free_huge(std::byte* memory) { std::free(memory); }

std::byte* Workspace::of_this_thread(std::size_t bytes) {
  if (buffer.bytes < bytes) {
    buffer.release();
    buffer.memory = allocate_huge(bytes);
    buffer.bytes = bytes;
  }
  return buffer.memory;
}

void Workspace::trim_this_thread() {
  if (buffer.bytes > static_cast<std::size_t>(tuning::kKeptWorkspaceBytes)) buffer.release();
}

}  // namespace bert_op
