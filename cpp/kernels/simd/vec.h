// Vectors of this tier's width. Like everything in this folder: kernel text that exists once and is compiled once per tier,
// inside the namespace that tier.h opens, with that tier's flags. It must not call inline functions of the standard library:
// the linker would merge their copies across tiers and could leave AVX-512 code in the portable one.

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t VecInt __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t VecUint __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t VecHalf __attribute__((vector_size(kLanes * 2)));
typedef std::uint8_t VecByte __attribute__((vector_size(kLanes)));
typedef std::int16_t VecShort __attribute__((vector_size(kLanes * 4)));  // twice as many lanes as a Vec
typedef std::uint8_t VecShortByte __attribute__((vector_size(kLanes * 2)));

#define BERT_OP_INLINE inline __attribute__((always_inline))

template <class To, class From>
BERT_OP_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class V = Vec>
BERT_OP_INLINE V load(const void* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class V>
BERT_OP_INLINE void store(void* to, V value) {
  __builtin_memcpy(to, &value, sizeof value);
}

BERT_OP_INLINE Vec set(float value) { return Vec{} + value; }
BERT_OP_INLINE VecInt set_int(std::int32_t value) { return VecInt{} + value; }

// Both return the second argument where either is NaN.
BERT_OP_INLINE Vec vmax(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

BERT_OP_INLINE Vec vmin(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

// x, but no further from 0 than limit; NaN becomes a number.
BERT_OP_INLINE Vec clamp_magnitude(Vec x, float limit) {
#if defined(__AVX512F__)
  constexpr int kSmallerMagnitude = 2;  // of both operands, with the sign of the first
  return (Vec)_mm512_range_ps((__m512)x, (__m512)set(limit), kSmallerMagnitude);
#else
  return vmax(vmin(x, set(limit)), set(-limit));
#endif
}

// To the nearest integer, ties to even; only for |value| < 2^22. NaN gives an arbitrary integer.
BERT_OP_INLINE VecInt round_to_int(Vec value) {
#if defined(__AVX512F__)
  return (VecInt)_mm512_cvtps_epi32((__m512)value);
#elif defined(__AVX2__)
  return (VecInt)_mm256_cvtps_epi32((__m256)value);
#elif defined(__SSE2__)
  return (VecInt)_mm_cvtps_epi32((__m128)value);
#else
  const Vec magic = set(12582912.0f);  // 1.5 * 2^23: adding it leaves the integer in the low mantissa bits
  return bit_cast<VecInt>(value + magic) - bit_cast<VecInt>(magic);
#endif
}

BERT_OP_INLINE Vec to_float(VecInt value) { return __builtin_convertvector(value, Vec); }

template <class V, int... Index>
BERT_OP_INLINE auto combine_halves(V v, auto combine, std::integer_sequence<int, Index...>) {
  constexpr int kHalf = sizeof...(Index);
  return combine(__builtin_shufflevector(v, v, Index...), __builtin_shufflevector(v, v, (Index + kHalf)...));
}

// One scalar from all lanes, halving the vector: a chain through 16 lanes would take longer than a short row of softmax.
template <class V>
BERT_OP_INLINE auto reduce(V v, auto combine) {
  constexpr int kCount = sizeof(V) / sizeof(v[0]);
  if constexpr (kCount == 1) {
    return v[0];
  } else {
    return reduce(combine_halves(v, combine, std::make_integer_sequence<int, kCount / 2>{}), combine);
  }
}

template <class V>
BERT_OP_INLINE auto reduce_add(V v) {
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

// Where a lane is NaN, the result is any of the lanes.
template <class V>
BERT_OP_INLINE auto reduce_max(V v) {
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

template <class V>
BERT_OP_INLINE auto reduce_min(V v) {
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a < b ? a : b; });
}

// Round to nearest even; NaN stays NaN.
BERT_OP_INLINE VecHalf to_bf16(Vec value) {
#if defined(__AVX512BF16__)
  return bit_cast<VecHalf>(_mm512_cvtneps_pbh((__m512)value));
#else
  const VecUint bits = bit_cast<VecUint>(value);
  const VecUint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecUint quiet = (bits >> 16) | 0x40u;
  const VecUint is_nan = (VecUint)(value != value);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), VecHalf);
#endif
}

BERT_OP_INLINE void store_u8(std::uint8_t* to, VecInt value) {
#if defined(__AVX512F__)
  store(to, _mm512_cvtusepi32_epi8((__m512i)value));
#else
  store(to, __builtin_convertvector(value, VecByte));
#endif
}

}  // namespace
