// Row operations: LayerNorm, conversion and quantization into tile-packed activations, one pass over a row in L1.

namespace {

BERT_OP_INLINE std::byte* tile_row(const PackedRows& packed, std::int64_t row) {
  return packed.tiles + row / kTileRows * packed.tile_count * kTileBytes + row % kTileRows * kTileRowBytes;
}

// Bounds of value(begin), value(begin + kLanes) ... below end.
template <class Value>
BERT_OP_INLINE Bounds bounds_over(std::int64_t begin, std::int64_t end, Value value) {
  RunningBounds bounds;
  for (std::int64_t i = begin; i < end; i += kLanes) {
    const Vec x = value(i);
    bounds.add(x);
    bounds.poison(x);
  }
  return bounds.all();
}

BERT_OP_INLINE Bounds bounds_of(F32, const std::byte* row, std::int64_t begin, std::int64_t end) {
  return bounds_over(begin, end, [row](std::int64_t i) __attribute__((always_inline)) { return load(row + i * 4); });
}

// bf16 are compared as integers, whose order is theirs once the magnitude of the negative ones is turned round; NaN is then
// beyond infinity.
BERT_OP_INLINE Bounds bounds_of(Bf16, const std::byte* row, std::int64_t begin, std::int64_t end) {
  VecShort low = VecShort{} + 0x7fff, high = ~low;
  for (std::int64_t i = begin; i < end; i += 2 * kLanes) {
    const VecShort bits = load<VecShort>(row + i * 2);
    const VecShort ordered = bits ^ ((bits >> 15) & 0x7fff);
    low = ordered < low ? ordered : low;
    high = ordered > high ? ordered : high;
  }
  const auto value = [](std::int16_t ordered) __attribute__((always_inline)) {
    const auto bits = (std::uint16_t)(ordered ^ ((ordered >> 15) & 0x7fff));
    return bit_cast<float>((std::uint32_t)bits << 16);
  };
  return {value(reduce_min(low)), value(reduce_max(high))};
}

BERT_OP_INLINE Vec load_floats(F32, const std::byte* from) { return load(from); }

BERT_OP_INLINE Vec load_floats(Bf16, const std::byte* from) {
#if defined(__AVX512BW__)
  // Each to the upper half of 32 bits, in one instruction.
  const __m512i places = _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 16);
  const __m512i halves = _mm512_castsi256_si512(load<__m256i>(from));
  return (Vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, places, halves);
#else
  return bit_cast<Vec>(__builtin_convertvector(load<VecHalf>(from), VecUint) << 16);
#endif
}

template <bool Clamp>
BERT_OP_INLINE VecInt level_of(Vec x, float offset, float inverse) {
  const Vec level = (x - offset) * inverse;
  return round_to_int(Clamp ? vmin(set(255.0f), vmax(set(0.0f), level)) : level);
}

// u8 = round((x - offset) * inverse) of 2 * kLanes columns. Within its own bounds a row needs no clamp.
template <bool Clamp>
BERT_OP_INLINE void store_levels(F32, std::byte* to, const std::byte* from, float offset, float inverse) {
  for (int v = 0; v < 2; ++v) {
    const VecInt level = level_of<Clamp>(load(from + v * kLanes * 4), offset, inverse);
    store_u8((std::uint8_t*)to + v * kLanes, level);
  }
}

// Neighbours share 32 bits: both are worked out in place, so that no lane has to move until the last step.
template <bool Clamp>
BERT_OP_INLINE void store_levels(Bf16, std::byte* to, const std::byte* from, float offset, float inverse) {
  const VecUint pairs = load<VecUint>(from);
  const VecUint even = (VecUint)level_of<Clamp>(bit_cast<Vec>(pairs << 16), offset, inverse);
  const VecUint odd = (VecUint)level_of<Clamp>(bit_cast<Vec>(pairs & 0xffff0000u), offset, inverse);
  store(to, __builtin_convertvector(bit_cast<VecShort>((even & 0xffffu) | (odd << 16)), VecShortByte));
}

template <bool Clamp, class Source>
BERT_OP_INLINE void quantize_chunk(Source source, std::byte* to, const std::byte* from, std::int64_t begin,
                                   std::int64_t end, float offset, float inverse) {
  for (std::int64_t i = begin; i < end; i += 2 * kLanes) {
    store_levels<Clamp>(source, to + i / kTileRowBytes * kTileBytes + i % kTileRowBytes,
                        from + i * element_bytes(Source::type), offset, inverse);
  }
}

BERT_OP_INLINE float scale_of(float low, float high) { return (high - low) * (1.0f / 255.0f); }
BERT_OP_INLINE float inverse_of(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }
BERT_OP_INLINE float scale_or_nan(float scale, Bounds own) {
  return scale + (own.low - own.low) + (own.high - own.high);
}

BERT_OP_INLINE void fill_last_tile(std::byte* to, std::int64_t columns) {
  for (std::int64_t i = columns; i < round_up(columns, kTileRowBytes); i += kLanes) {
    store_u8((std::uint8_t*)to + i / kTileRowBytes * kTileBytes + i % kTileRowBytes, set_int(0));
  }
}

// Columns [first, last) of a row, which stand at `from` as if the row were whole: a scale and an offset for each chunk, of
// which bounds(begin, end) tells the bounds. A chunk with NaN or infinity in it gets a NaN scale, so that the result shows it.
template <class Source, class BoundsOf>
BERT_OP_INLINE void quantize_row(const std::byte* from, std::int64_t first, std::int64_t last, std::int64_t row,
                                 const PackedRows& packed, BoundsOf bounds) {
  const std::int64_t chunk_columns = chunk_tiles(ElementType::u8, packed.tile_count) * kTileRowBytes;
  const std::int64_t chunks = chunk_count(ElementType::u8, packed.tile_count);
  std::byte* to = tile_row(packed, row);
  for (std::int64_t begin = first; begin < last; begin += chunk_columns) {
    const std::int64_t end = begin + chunk_columns < last ? begin + chunk_columns : last;
    const Bounds own = bounds(begin, end);
    const bool fixed = packed.static_range != nullptr;
    const float low = fixed ? packed.static_range[0] : own.low, high = fixed ? packed.static_range[1] : own.high;
    const float scale = scale_of(low, high);
    if (fixed) {
      quantize_chunk<true>(Source{}, to, from, begin, end, low, inverse_of(scale));
    } else {
      quantize_chunk<false>(Source{}, to, from, begin, end, low, inverse_of(scale));
    }
    packed.row_scale[row * chunks + begin / chunk_columns] = {scale_or_nan(scale, own), low};
  }
  fill_last_tile(to, last);
}

// The levels of a chunk that was rotated into from[0], from[1] ...; they stay within 0 and 255 but for the rounding of
// offset * inverse, which saturation takes care of where four vectors are packed into a row of a tile.
BERT_OP_INLINE void quantize_rotated_chunk(const float* from, std::byte* to, std::int64_t begin, std::int64_t end,
                                           float offset, float inverse) {
  std::int64_t i = begin;
#if defined(__AVX512BW__)
  const Vec scale = set(inverse), start = set(-offset * inverse);
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (; i + kTileRowBytes <= end; i += kTileRowBytes) {
    __m512i levels[4];
    for (int v = 0; v < 4; ++v)
      levels[v] = (__m512i)round_to_int(load(from + (i - begin) + v * kLanes) * scale + start);
    const __m512i packed =
        _mm512_packus_epi16(_mm512_packs_epi32(levels[0], levels[1]), _mm512_packs_epi32(levels[2], levels[3]));
    store(to + i / kTileRowBytes * kTileBytes, _mm512_permutexvar_epi32(in_order, packed));
  }
#endif
  quantize_chunk<false>(F32{}, to, (const std::byte*)(from - begin), i, end, offset, inverse);
}

// The same of columns that value(i) gives, each asked for once, in order; what is quantized are the rotated chunks.
template <class Value>
BERT_OP_INLINE void quantize_rotated_row(std::int64_t first, std::int64_t last, std::int64_t row,
                                         const PackedRows& packed, Value value) {
  alignas(64) float rotated[kLongestScaledChunk * kTileRowBytes];
  const std::int64_t chunk_columns = chunk_tiles(ElementType::u8, packed.tile_count) * kTileRowBytes;
  const std::int64_t chunks = chunk_count(ElementType::u8, packed.tile_count);
  std::byte* to = tile_row(packed, row);
  for (std::int64_t begin = first; begin < last; begin += chunk_columns) {
    const std::int64_t end = begin + chunk_columns < last ? begin + chunk_columns : last;
    const float* smoothing = packed.smoothing;
    const auto smooth = [&](std::int64_t i) __attribute__((always_inline)) { return value(i) * load(smoothing + i); };
    const Bounds own =
        smoothing == nullptr ? rotate_chunk(begin, end, value, rotated) : rotate_chunk(begin, end, smooth, rotated);
    const float scale = scale_of(own.low, own.high);
    quantize_rotated_chunk(rotated, to, begin, end, own.low, inverse_of(scale));
    packed.row_scale[row * chunks + begin / chunk_columns] = {scale_or_nan(scale, own), own.low};
  }
  fill_last_tile(to, last);
}

// Packs a row of x whose columns value(i) gives, each asked for once, in order, and from then on to be found at x + i.
template <class Value>
BERT_OP_INLINE void pack_row(const float* x, std::int64_t columns, std::int64_t row, const PackedRows& packed,
                             Value value) {
  if (packed.rotated) return quantize_rotated_row(0, columns, row, packed, value);
  if (packed.type == ElementType::u8) {
    const auto bounds = [&](std::int64_t begin, std::int64_t end)
                            __attribute__((always_inline)) { return bounds_over(begin, end, value); };
    return quantize_row<F32>((const std::byte*)x, 0, columns, row, packed, bounds);
  }
  std::byte* to = tile_row(packed, row);
  if (packed.type == ElementType::bf16) {
    for (std::int64_t i = 0; i < columns; i += kLanes) store(to + i / 32 * kTileBytes + i % 32 * 2, to_bf16(value(i)));
  } else {
    for (std::int64_t i = 0; i < columns; i += kLanes) store(to + i / 16 * kTileBytes + i % 16 * 4, value(i));
  }
}

// term(0) + term(kLanes) + ... below n, which is a multiple of 32; in four sums, because an addition takes four cycles.
template <class Term>
BERT_OP_INLINE float sum_over(std::int64_t n, Term term) {
  Vec sums[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int v = 0; v < 4; ++v) sums[v] += term(i + v * kLanes);
  }
  for (; i < n; i += kLanes) sums[0] += term(i);
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// What to subtract from a row and what to multiply it with, so that its mean is 0 and its variance 1.
struct Moments {
  float mean;
  float inverse;
};

BERT_OP_INLINE Moments moments(const float* x, std::int64_t n, float eps) {
  const float sum = sum_over(n, [x](std::int64_t i) __attribute__((always_inline)) { return load(x + i); });
  const float mean = sum / (float)n;
  const float squares = sum_over(n, [x, mean](std::int64_t i) __attribute__((always_inline)) {
    const Vec d = load(x + i) - mean;
    return d * d;
  });
  return {mean, 1.0f / __builtin_sqrtf(squares / (float)n + eps)};
}

void layer_norm(const LayerNormArgs& args) {
  const std::int64_t n = args.hidden_size;
  for (std::int64_t row = args.row_begin; row < args.row_end; ++row) {
    float* x = args.x + args.rows[row] * n;
    if (args.gamma == nullptr) {
      pack_row(x, n, row, args.packed, [x](std::int64_t i) __attribute__((always_inline)) { return load(x + i); });
      continue;
    }
    const Moments m = moments(x, n, args.eps);
    const auto normalize = [&](std::int64_t i) __attribute__((always_inline)) {
      const Vec y = (load(x + i) - m.mean) * m.inverse * load(args.gamma + i) + load(args.beta + i);
      store(x + i, y);
      return y;
    };
    if (args.packed.tiles != nullptr) {
      pack_row(x, n, row, args.packed, normalize);
    } else {
      for (std::int64_t i = 0; i < n; i += kLanes) normalize(i);
    }
  }
}

template <class Source>
void quantize_rows(const QuantizeArgs& args) {
  constexpr std::int64_t kBytes = element_bytes(Source::type);
  const std::int64_t first = args.column_begin, last = first + args.columns;
  for (std::int64_t row = args.row_begin; row < args.row_end; ++row) {
    const std::byte* from = args.source + (row * args.columns - first) * kBytes;
    if (args.packed.rotated) {
      quantize_rotated_row(first, last, row, args.packed, [from](std::int64_t i) __attribute__((always_inline)) {
        return load_floats(Source{}, from + i * kBytes);
      });
      continue;
    }
    const auto bounds = [from](std::int64_t begin, std::int64_t end)
                            __attribute__((always_inline)) { return bounds_of(Source{}, from, begin, end); };
    quantize_row<Source>(from, first, last, row, args.packed, bounds);
  }
}

void quantize(const QuantizeArgs& args) {
  if (args.source_type == ElementType::bf16) return quantize_rows<Bf16>(args);
  quantize_rows<F32>(args);
}

}  // namespace
