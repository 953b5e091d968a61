// What a compiler of today takes from its own C library and libstdc++ and those of 2018 (glibc 2.28, GCC 8: what wheels for
// manylinux_2_28 may ask for) do not have. Defined here, the library needs neither.
#include <new>
#include <sstream>

template class std::basic_stringbuf<char>;
template class std::basic_ostringstream<char>;
template class std::basic_stringstream<char>;

// Whether the process has one thread only, which lets shared_ptr count without atomics. Never claimed: it is an optimization.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;

namespace std {

[[noreturn]] __attribute__((visibility("hidden"))) void __throw_bad_array_new_length() {
  throw std::bad_array_new_length();
}

}  // namespace std
