// The tier's densest multiply-add on registers only.

#if defined(__AVX512F__)
#define BERT_OP_VECTOR_REGISTER "v"
#elif defined(__x86_64__)
#define BERT_OP_VECTOR_REGISTER "x"
#else
#define BERT_OP_VECTOR_REGISTER "w"
#endif

namespace {

template <class T>
std::int64_t peak_of(std::int64_t rounds) {
  constexpr int kSums = 12;  // independent chains: more than latency times throughput, fewer than registers
  using Sum = VectorOf<Accumulator<T>>;
  Sum sums[kSums] = {};
  for (int i = 0; i < kSums; ++i)
    asm volatile("" : "+" BERT_OP_VECTOR_REGISTER(sums[i]));  // all different, as far as it knows
  VecUint columns = VecUint{} + 0x3f803f80u;
  for (std::int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+" BERT_OP_VECTOR_REGISTER(columns));  // a new value, for all the compiler knows: the loop stays
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) multiply_group(T{}, sums[i], 0x3f803f80u, columns);
  }
  Sum total = {};
  for (int i = 0; i < kSums; ++i) total += sums[i];
  asm volatile("" : : BERT_OP_VECTOR_REGISTER(total));
  return rounds * kSums * kLanes * 2 * (4 / element_bytes(T::type));
}

#ifndef BERT_OP_TIER_MICRO
std::int64_t peak(ElementType type, std::int64_t rounds) {
  if (type == ElementType::f32) return peak_of<F32>(rounds);
  if (type == ElementType::bf16) return peak_of<Bf16>(rounds);
  return peak_of<U8>(rounds);
}
#else
std::int64_t peak(ElementType type, std::int64_t rounds) { return tile_peak(type, rounds); }
#endif

}  // namespace
