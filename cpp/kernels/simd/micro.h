// The inner products: a block of rows times one panel of 32 columns over some k tiles.
//
//   Micro<T>::run(a, block_stride, b, tiles, c, c_stride, rows, between)
//
// a: tile-packed rows, 16 rows a block, blocks `block_stride` bytes apart; b: a panel; c: [kRows][c_stride] sums, fp32 or
// int32. Rows beyond `rows` may be left out. `between` is called at least calls_per_tile(rows) times for each k tile, so that
// what it does runs beside the products. kFinishBetween: whether that pays for work on vectors, too; where the products are
// themselves on the vector units, it would only take registers from them. kLongestChunk: k tiles of a chunk at most, where
// no scale decides.

namespace {

// Element types as tags.
struct F32 {
  static constexpr ElementType type = ElementType::f32;
};
struct Bf16 {
  static constexpr ElementType type = ElementType::bf16;
};
struct U8 {
  static constexpr ElementType type = ElementType::u8;
};

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<U8> {
  using type = std::int32_t;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class Scalar>
struct VectorOfScalar {
  using type = Vec;
};
template <>
struct VectorOfScalar<std::int32_t> {
  using type = VecInt;
};
template <class Scalar>
using VectorOf = typename VectorOfScalar<Scalar>::type;

// acc += the products of one 4-byte group: `a` is the group of one row in every lane, `b` one group of kLanes columns.
BERT_OP_INLINE void multiply_group(F32, Vec& acc, std::uint32_t a, VecUint b) {
  acc += bit_cast<float>(a) * bit_cast<Vec>(b);
}

BERT_OP_INLINE void multiply_group(Bf16, Vec& acc, std::uint32_t a, VecUint b) {
#if defined(__AVX512BF16__)
  acc = (Vec)_mm512_dpbf16_ps((__m512)acc, bit_cast<__m512bh>(_mm512_set1_epi32((int)a)), bit_cast<__m512bh>(b));
#else
  acc += bit_cast<float>(a << 16) * bit_cast<Vec>(b << 16);
  acc += bit_cast<float>(a & 0xffff0000u) * bit_cast<Vec>(b & 0xffff0000u);
#endif
}

// Without VNNI, bytes are widened to 16 bits in two halves (bytes 0 and 2, bytes 1 and 3) and multiplied with pmaddwd: exact,
// where pmaddubsw would saturate.
BERT_OP_INLINE void multiply_group(U8, VecInt& acc, std::uint32_t a, VecUint b) {
#if defined(__AVX512VNNI__)
  acc = (VecInt)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32((int)a), bit_cast<__m512i>(b));
#elif defined(BERT_OP_TIER_VNNI256)
  // The signed bytes come first in this order of operands.
  asm(BERT_OP_TIER_VNNI256 " vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(_mm256_set1_epi32((int)a)), "x"(b));
#elif defined(__AVX512BW__)
  const __m512i bytes = bit_cast<__m512i>(b), all = _mm512_set1_epi32((int)a);
  const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8), odd = _mm512_srai_epi16(bytes, 8);
  const __m512i a_even = _mm512_and_si512(all, _mm512_set1_epi32(0x00ff00ff)), a_odd = _mm512_srli_epi16(all, 8);
  acc += (VecInt)_mm512_madd_epi16(a_even, even) + (VecInt)_mm512_madd_epi16(a_odd, odd);
#elif defined(__AVX2__)
  const __m256i bytes = bit_cast<__m256i>(b), all = _mm256_set1_epi32((int)a);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), odd = _mm256_srai_epi16(bytes, 8);
  const __m256i a_even = _mm256_and_si256(all, _mm256_set1_epi32(0x00ff00ff)), a_odd = _mm256_srli_epi16(all, 8);
  acc += (VecInt)_mm256_madd_epi16(a_even, even) + (VecInt)_mm256_madd_epi16(a_odd, odd);
#elif defined(__SSE2__)
  const __m128i bytes = bit_cast<__m128i>(b);
  const __m128i even = _mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8), odd = _mm_srai_epi16(bytes, 8);
  const __m128i a_even = _mm_set1_epi32((int)(a & 0x00ff00ffu)), a_odd = _mm_set1_epi32((int)((a >> 8) & 0x00ff00ffu));
  acc += (VecInt)_mm_madd_epi16(a_even, even) + (VecInt)_mm_madd_epi16(a_odd, odd);
#else
  const VecInt bytes = bit_cast<VecInt>(b);
  acc += (std::int32_t)(a & 0xff) * ((bytes << 24) >> 24) + (std::int32_t)((a >> 8) & 0xff) * ((bytes << 16) >> 24) +
         (std::int32_t)((a >> 16) & 0xff) * ((bytes << 8) >> 24) + (std::int32_t)(a >> 24) * (bytes >> 24);
#endif
}

// strip_rows x kStripColumns sums stay in registers: 16 of 32 on AVX-512; below 12 of 16 where a product is one instruction, else
// 8, since what it needs in between has to find room too.
#if defined(__AVX512F__)
constexpr int kStripVectors = 2;
template <class T>
constexpr int strip_rows = 8;
#elif defined(__AVX2__)
constexpr int kStripVectors = 2;
#ifdef BERT_OP_TIER_VNNI256
constexpr bool kBytesInOne = true;
#else
constexpr bool kBytesInOne = false;
#endif
template <class T>
constexpr int strip_rows = T::type == ElementType::f32 || (T::type == ElementType::u8 && kBytesInOne) ? 6 : 4;
#else
constexpr int kStripVectors = 4;
template <class T>
constexpr int strip_rows = 2;
#endif
constexpr int kStripColumns = kStripVectors * kLanes;

template <class T>
struct VectorMicro {
  using Acc = Accumulator<T>;
  static constexpr int kRows = 16, kStripRows = strip_rows<T>;
  static constexpr std::int64_t kLongestChunk = T::type == ElementType::f32 ? 8 : 12;
  static constexpr bool kFinishBetween = false;

  static constexpr std::int64_t calls_per_tile(std::int64_t rows) {
    return ceil_div(rows, kStripRows) * (kPanelColumns / kStripColumns);
  }

  template <int Rows, class Between>
  static BERT_OP_INLINE void strip(const std::byte* a, const std::byte* b, std::int64_t tiles, Acc* c,
                                   std::int64_t c_stride, Between&& between) {
    VectorOf<Acc> acc[Rows][kStripVectors] = {};
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      between();
      const std::byte* a_tile = a + tile * kTileBytes;
      const std::byte* b_tile = b + tile * kPanelTileBytes;
#pragma GCC unroll 4
      for (int group = 0; group < 16; ++group) {
        VecUint columns[kStripVectors];
        for (int v = 0; v < kStripVectors; ++v) {
          constexpr int kVectorsPerTile = 16 / kLanes;
          columns[v] = load<VecUint>(b_tile + (v / kVectorsPerTile) * kTileBytes + group * kTileRowBytes +
                                     (v % kVectorsPerTile) * kLanes * 4);
        }
        for (int row = 0; row < Rows; ++row) {
          std::uint32_t pair;
          __builtin_memcpy(&pair, a_tile + row * kTileRowBytes + group * 4, 4);
          for (int v = 0; v < kStripVectors; ++v) multiply_group(T{}, acc[row][v], pair, columns[v]);
        }
      }
    }
    for (int row = 0; row < Rows; ++row) {
      for (int v = 0; v < kStripVectors; ++v) store(c + row * c_stride + v * kLanes, acc[row][v]);
    }
  }

  template <class Between>
  static void run(const std::byte* a, std::int64_t, const std::byte* b, std::int64_t tiles, Acc* c,
                  std::int64_t c_stride, std::int64_t rows, Between&& between) {
    for (int column = 0; column < kPanelColumns; column += kStripColumns) {
      const std::byte* b_strip = b + (column / 16) * kTileBytes + (column % 16) * 4;
      std::int64_t row = 0;
      for (; row + kStripRows <= rows; row += kStripRows)
        strip<kStripRows>(a + row * kTileRowBytes, b_strip, tiles, c + row * c_stride + column, c_stride, between);
      if constexpr (kStripRows > 4) {
        for (; row + 4 <= rows; row += 4)
          strip<4>(a + row * kTileRowBytes, b_strip, tiles, c + row * c_stride + column, c_stride, between);
      }
      if constexpr (kStripRows > 2) {
        for (; row + 2 <= rows; row += 2)
          strip<2>(a + row * kTileRowBytes, b_strip, tiles, c + row * c_stride + column, c_stride, between);
      }
      for (; row < rows; ++row)
        strip<1>(a + row * kTileRowBytes, b_strip, tiles, c + row * c_stride + column, c_stride, between);
    }
  }
};

}  // namespace
