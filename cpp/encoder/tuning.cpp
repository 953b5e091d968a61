#include "encoder/tuning.h"

#include <unistd.h>

#include <algorithm>

namespace bert_op::tuning {

std::int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const std::int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return std::int64_t{1} << 20;
}

std::int64_t slice_rows(const ModelShape& shape) {
  const std::int64_t row_bytes = shape.intermediate_size * element_bytes(float_type(shape.precision));
  return std::clamp<std::int64_t>(l2_bytes() * 3 / 4 / row_bytes, 128, 512);
}

namespace {

std::int64_t pass_bytes() { return l2_bytes() * 5 / 8; }

}  // namespace

std::int64_t pass_rows(std::int64_t rows, std::int64_t row_bytes) {
  const std::int64_t passes = ceil_div(rows * row_bytes, pass_bytes());
  return round_up(ceil_div(rows, passes), kRowBlock);
}

std::int64_t max_pass_rows(std::int64_t rows, std::int64_t row_bytes) {
  // pass_rows shares rows out evenly and rounds up, so it can come close to one row more than the bytes allow.
  return round_up(std::clamp<std::int64_t>(ceil_div(pass_bytes(), row_bytes), 1, std::max<std::int64_t>(rows, 1)),
                  kRowBlock);
}

}  // namespace bert_op::tuning
