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

}  // namespace bert_op::tuning
