// The rotation of kernels/rotation.h, in registers, with the bounds of what comes out.

namespace {

struct Bounds {
  float low;
  float high;
};

// Smallest and largest of all vectors that were added.
class RunningBounds {
 public:
  BERT_OP_INLINE void add(Vec x) {
    low_ = vmin(x, low_);
    high_ = vmax(x, high_);
  }
  // NaN and infinity: the minimum of a NaN and a number is the number.
  BERT_OP_INLINE void poison(Vec x) { poison_ += x * 0.0f; }

  // NaN or infinite where a poisoned vector holds either.
  BERT_OP_INLINE Bounds all() const { return {reduce_min(low_), reduce_max(high_) + reduce_add(poison_)}; }

 private:
  Vec low_ = set(__builtin_inff()), high_ = set(-__builtin_inff()), poison_ = set(0.0f);
};

constexpr int kVectorsOf16 = 16 / kLanes;

BERT_OP_INLINE void mix(Vec& w, Vec& x, Vec& y, Vec& z) {
  const Vec sum = w + x, difference = w - x, other_sum = y + z, other_difference = y - z;
  w = sum + other_difference;
  x = sum - other_difference;
  y = other_sum + difference;
  z = other_sum - difference;
}

// 16 columns, whose quarters move round: quarter q becomes what was quarter (q + By) mod 4.
template <int By>
BERT_OP_INLINE void turn(Vec (&x)[kVectorsOf16]) {
#if defined(__AVX512F__)
  constexpr int kQuarters = By == 1 ? 0x39 : By == 2 ? 0x4e : 0x93;
  x[0] = (Vec)_mm512_shuffle_f32x4((__m512)x[0], (__m512)x[0], kQuarters);
#elif defined(__AVX2__)
  const Vec first = x[By / 2], second = x[1 - By / 2];
  constexpr int kMiddle = 0x21;  // the upper half of the one, the lower half of the other
  x[0] = By == 2 ? first : (Vec)_mm256_permute2f128_ps((__m256)first, (__m256)second, kMiddle);
  x[1] = By == 2 ? second : (Vec)_mm256_permute2f128_ps((__m256)second, (__m256)first, kMiddle);
#else
  const Vec before[] = {x[0], x[1], x[2], x[3]};
  for (int quarter = 0; quarter < 4; ++quarter) x[quarter] = before[(quarter + By) % 4];
#endif
}

// The four quarters of 16 columns: each takes the sum of all, less twice the quarter opposite.
BERT_OP_INLINE void mix_quarters(Vec (&x)[kVectorsOf16]) {
#if defined(__AVX512F__)
  const Vec pairs = x[0] + (Vec)_mm512_shuffle_f32x4((__m512)x[0], (__m512)x[0], 0xb1);
  const Vec all = pairs + (Vec)_mm512_shuffle_f32x4((__m512)pairs, (__m512)pairs, 0x4e);
  x[0] = all - 2.0f * (Vec)_mm512_shuffle_f32x4((__m512)x[0], (__m512)x[0], 0x1b);
#elif defined(__AVX2__)
  const Vec first = (Vec)_mm256_permute2f128_ps((__m256)x[0], (__m256)x[0], 1);
  const Vec second = (Vec)_mm256_permute2f128_ps((__m256)x[1], (__m256)x[1], 1);
  const Vec all = (x[0] + x[1]) + (first + second);
  x[0] = all - 2.0f * second;
  x[1] = all - 2.0f * first;
#else
  mix(x[0], x[1], x[2], x[3]);
#endif
}

// What stands `Stride` times 16 columns apart in a block.
template <int Stride, int Count>
BERT_OP_INLINE void mix_over(Vec (&x)[Count][kVectorsOf16]) {
#pragma GCC unroll 16
  for (int first = 0; first < Count; first += 4 * Stride) {
#pragma GCC unroll 4
    for (int i = first; i < first + Stride; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectorsOf16; ++v) mix(x[i][v], x[i + Stride][v], x[i + 2 * Stride][v], x[i + 3 * Stride][v]);
    }
  }
}

template <int Count>
BERT_OP_INLINE void rotate(Vec (&x)[Count][kVectorsOf16]) {
  if constexpr (Count == 1) {
    mix_quarters(x[0]);
  } else {
    mix_over<1>(x);
#pragma GCC unroll 4
    for (int first = 0; first < Count; first += 4) {
      turn<1>(x[first + 1]);
      turn<2>(x[first + 2]);
      turn<3>(x[first + 3]);
    }
    mix_over<1>(x);
    if constexpr (Count == 16) mix_over<4>(x);
  }
}

// One block of 16 * Count columns, from value(begin), value(begin + kLanes) ... to `to`. NaN and infinity get everywhere.
template <int Count, class Value>
BERT_OP_INLINE void rotate_block(std::int64_t begin, Value value, float* to, RunningBounds& bounds) {
  Vec x[Count][kVectorsOf16];
#pragma GCC unroll 16
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectorsOf16; ++v) x[i][v] = value(begin + i * 16 + v * kLanes);
  }
  rotate(x);
#pragma GCC unroll 16
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectorsOf16; ++v) {
      if constexpr (Count < 16) x[i][v] *= rotation_scale(16 * Count);
      bounds.add(x[i][v]);
      if (i == 0) bounds.poison(x[i][v]);
      store(to + i * 16 + v * kLanes, x[i][v]);
    }
  }
}

// Columns [begin, end) of a row, a chunk, rotated into to[0], to[1] ...
template <class Value>
BERT_OP_INLINE Bounds rotate_chunk(std::int64_t begin, std::int64_t end, Value value, float* to) {
  RunningBounds bounds;
  for (; rotation_block(end - begin) == 256 && begin < end; begin += 256, to += 256)
    rotate_block<16>(begin, value, to, bounds);
  for (; rotation_block(end - begin) == 64 && begin < end; begin += 64, to += 64)
    rotate_block<4>(begin, value, to, bounds);
  for (; begin < end; begin += 16, to += 16) rotate_block<1>(begin, value, to, bounds);
  return bounds.all();
}

}  // namespace
