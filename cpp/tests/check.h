// A minimal test frame: TEST(name) { CHECK(condition); CHECK_CLOSE(value, expected, tolerance); } and, in
// main, `return bert_op::testing::run_tests(argc, argv);`, which runs all tests or those whose names contain
// argv[1]. CHECK may be used from several threads.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace bert_op::testing {

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& registered_tests() {
  static std::vector<TestCase> tests;
  return tests;
}

inline std::atomic<int>& failed_checks() {
  static std::atomic<int> count{0};
  return count;
}

// Counts a failure and reports the first ten of a test, so that a broken kernel does not print a line per
// element.
inline void fail_check(const char* file, int line, const char* message) {
  if (failed_checks()++ < 10) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message);
  }
}

// True if both differ by at most `tolerance`; infinities and NaNs must agree.
inline bool is_close(double value, double expected, double tolerance) {
  if (std::isnan(expected) || std::isinf(expected)) {
    return std::isnan(expected) ? std::isnan(value) : value == expected;
  }
  return std::abs(value - expected) <= tolerance;
}

inline int run_tests(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const TestCase& test : registered_tests()) {
    if (std::string(test.name).find(filter) == std::string::npos) {
      continue;
    }
    failed_checks() = 0;
    try {
      test.run();
    } catch (const std::exception& error) {
      fail_check(test.name, 0, error.what());
    }
    const int failures = failed_checks();
    if (failures == 0) {
      std::printf("PASS %s\n", test.name);
    } else {
      std::printf("FAIL %s (%d checks failed)\n", test.name, failures);
    }
    std::fflush(stdout);
    ++(failures == 0 ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

struct TestRegistration {
  TestRegistration(const char* name, void (*run)()) { registered_tests().push_back({name, run}); }
};

}  // namespace bert_op::testing

#define TEST(name)                                                                       \
  static void test_##name();                                                             \
  static const ::bert_op::testing::TestRegistration register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      ::bert_op::testing::fail_check(__FILE__, __LINE__, "CHECK(" #condition ")"); \
    }                                                                              \
  } while (false)

#define CHECK_CLOSE(value, expected, tolerance)                                                              \
  do {                                                                                                       \
    const double check_value = (value);                                                                      \
    const double check_expected = (expected);                                                                \
    if (!::bert_op::testing::is_close(check_value, check_expected, (tolerance))) {                           \
      const std::string message = "CHECK_CLOSE(" #value ", " #expected "): " + std::to_string(check_value) + \
                                  " against " + std::to_string(check_expected);                              \
      ::bert_op::testing::fail_check(__FILE__, __LINE__, message.c_str());                                   \
    }                                                                                                        \
  } while (false)
