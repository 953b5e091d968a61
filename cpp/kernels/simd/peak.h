// The tier's densest multiply-add on registers only.

namespace {

template <class T>
std::int64_t peak_of(std::int64_t rounds) {
  constexpr int kSums = 8;
  VectorOf<Accumulator<T>> sums[kSums] = {};
  VecUint columns = VecUint{} + 0x3f803f80u;
  std::uint32_t group = 0x3f803f80u;
  for (std::int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+m"(group));
    for (int i = 0; i < kSums; ++i) multiply_group(T{}, sums[i], group, columns);
  }
  for (int i = 0; i < kSums; ++i) asm volatile("" : : "m"(sums[i]));
  return rounds * kSums * kLanes * 2 * (4 / element_bytes(T::type));
}

#ifndef BERT_OP_TIER_MICRO
std::int64_t peak(ElementType type, std::int64_t rounds) {
  if (type == ElementType::f32) return peak_of<F32>(rounds);
  if (type == ElementType::bf16) return peak_of<Bf16>(rounds);
  return peak_of<U8>(rounds);
}
#else
std::int64_t peak(ElementType type, std::int64_t rounds) {
  if (type == ElementType::f32) return peak_of<F32>(rounds);
  return tile_peak(type, rounds);
}
#endif

}  // namespace
