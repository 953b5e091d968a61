#include "kernels/rotation.h"

#include <algorithm>

namespace bert_op {
namespace {

// What stands `stride` apart, in all columns of a block.
void mix(float* block, std::int64_t columns, std::int64_t stride) {
  for (std::int64_t first = 0; first < columns; first += 4 * stride) {
    float* w = block + first;
    float *x = w + stride, *y = x + stride, *z = y + stride;
    for (std::int64_t i = 0; i < stride; ++i) {
      const float sum = w[i] + x[i], difference = w[i] - x[i], other_sum = y[i] + z[i], other_difference = y[i] - z[i];
      w[i] = sum + other_difference;
      x[i] = sum - other_difference;
      y[i] = other_sum + difference;
      z[i] = other_sum - difference;
    }
  }
}

void turn(float* block, std::int64_t columns) {
  for (std::int64_t first = 0; first < columns; first += 16)
    std::rotate(block + first, block + first + first / 16 % 4 * 4, block + first + 16);
}

}  // namespace

void rotate_chunk(float* chunk, std::int64_t columns) {
  for (std::int64_t first = 0; first < columns;) {
    const std::int64_t size = rotation_block(columns - first);
    float* block = chunk + first;
    mix(block, size, size == 16 ? 4 : 16);
    if (size > 16) {
      turn(block, size);
      mix(block, size, 16);
    }
    if (size == 256) mix(block, size, 64);
    for (std::int64_t i = 0; i < size; ++i) block[i] *= rotation_scale(size);
    first += size;
  }
}

}  // namespace bert_op
