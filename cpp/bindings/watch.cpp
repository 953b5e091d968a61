// Whether words of memory still hold what they held, for the check before each forward.
//
// What the packed weights were made from are hundreds of small objects that Python and torch keep all over the heap:
// tensors, dicts, classes. Asking each of them in Python is a chain of cache misses, one after the other, since a
// forward has just driven them out of every cache. Here they are plain addresses, which do not depend on each other:
// the processor fetches many at a time, and a word costs a nanosecond or two.
//
// So this file knows neither Python nor torch. Which words tell of a change, and that their owners are alive, is the
// caller's affair (op/bert_op/_watch.py); it calls through ctypes, holding the interpreter's lock.

#include <cstdint>
#include <cstring>

// 1 if the 8 bytes at each of `places` equal the one of `values`, else 0. Nothing behind a word that differs is read:
// a pointer may be followed by what it points to. A place need not be aligned.
extern "C" __attribute__((visibility("default"))) int bert_op_unchanged(const char* const* places,
                                                                        const std::uint64_t* values,
                                                                        std::int64_t count) {
  constexpr std::int64_t kAhead = 64;  // fetching an address that is not there any more does nothing
  for (std::int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) __builtin_prefetch(places[i + kAhead]);
    std::uint64_t word;
    std::memcpy(&word, places[i], sizeof word);
    if (word != values[i]) return 0;
  }
  return 1;
}
