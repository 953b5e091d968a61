// softmax(q k^T scale + mask) v of one head. Keys and values are repacked once into panels; then, for a block of query rows,
// scores, softmax and the weighted sum of values stay in L1 and L2. A row's softmax sees all its keys at once, so its result
// does not depend on which other rows share the call.

namespace {

struct AttentionScratch {
  std::byte* keys;     // panels of 32 keys
  std::byte* values;   // panels of 32 head columns
  std::byte* queries;  // one block of rows, tile-packed
  std::byte* weights;  // one block of softmax rows, tile-packed
  float* scores;       // [32][score_stride(padded keys)]
  float* sums;         // [32][32]
};

template <class T>
BERT_OP_INLINE AttentionScratch carve(std::byte* at, std::int64_t padded, std::int64_t head_size) {
  constexpr std::int64_t kBytes = element_bytes(T::type);
  AttentionScratch s;
  s.keys = at;
  s.values = s.keys + padded * head_size * kBytes;
  s.queries = s.values + padded * head_size * kBytes;
  s.weights = s.queries + kRowBlock * head_size * kBytes;
  s.scores = (float*)(s.weights + kRowBlock * padded * kBytes);
  s.sums = s.scores + kRowBlock * score_stride(padded);
  return s;
}

// to[group][key] = from[key][group], 4 bytes each: 16 keys of one k tile; rows at `from` are row_bytes apart.
BERT_OP_INLINE void transpose_tile(std::byte* to, const std::byte* from, std::int64_t row_bytes, std::int64_t keys) {
#if defined(__AVX512F__)
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = i < keys ? _mm512_loadu_si512(from + i * row_bytes) : _mm512_setzero_si512();
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_si512(to + i * 64, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_si512(to + (i + 8) * 64, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
  }
#else
  for (std::int64_t key = 0; key < 16; ++key) {
    for (std::int64_t group = 0; group < 16; ++group) {
      std::uint32_t value = 0;
      if (key < keys) __builtin_memcpy(&value, from + key * row_bytes + group * 4, 4);
      __builtin_memcpy(to + group * 64 + key * 4, &value, 4);
    }
  }
#endif
}

BERT_OP_INLINE std::int64_t at_least_zero(std::int64_t value) { return value > 0 ? value : 0; }

// Keys are the columns of q k^T, the head's elements its K.
template <class T>
void pack_keys(std::byte* to, const AttentionArgs& a, std::int64_t padded) {
  const std::int64_t row_bytes = a.head_size * element_bytes(T::type);
  const std::int64_t tiles = row_bytes / kTileRowBytes;
  for (std::int64_t key = 0; key < padded; key += 16) {
    std::byte* panel = to + key / 32 * tiles * kPanelTileBytes + key % 32 / 16 * kTileBytes;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      transpose_tile(panel + tile * kPanelTileBytes, a.k + key * row_bytes + tile * kTileRowBytes, row_bytes,
                     at_least_zero(a.seq_len - key));
    }
  }
}

// The head's elements are the columns of the second product, keys its K.
template <class T>
void pack_values(std::byte* to, const AttentionArgs& a, std::int64_t padded) {
  const std::int64_t row_bytes = a.head_size * element_bytes(T::type);
  constexpr std::int64_t kKeysPerGroup = 4 / element_bytes(T::type);
  const std::int64_t tiles = padded / (16 * kKeysPerGroup);
  for (std::int64_t group = 0; group < padded / kKeysPerGroup; ++group) {
    for (std::int64_t column = 0; column < a.head_size; column += kLanes) {
      std::byte* at = to + (column / 32 * tiles + group / 16) * kPanelTileBytes + column % 32 / 16 * kTileBytes +
                      group % 16 * kTileRowBytes + column % 16 * 4;
      const std::int64_t key = group * kKeysPerGroup;
      if constexpr (T::type == ElementType::f32) {
        store(at, key < a.seq_len ? load(a.v + key * row_bytes + column * 4) : set(0.0f));
      } else {
        const std::byte* row = a.v + key * row_bytes + column * 2;
        VecUint pair = {};
        if (key < a.seq_len) pair = __builtin_convertvector(load<VecHalf>(row), VecUint);
        if (key + 1 < a.seq_len) pair |= __builtin_convertvector(load<VecHalf>(row + row_bytes), VecUint) << 16;
        store(at, pair);
      }
    }
  }
}

// scores = scores * scale + mask; returns the largest.
BERT_OP_INLINE float add_mask(float* scores, const float* mask, const AttentionArgs& a) {
  Vec high = set(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kLanes <= a.seq_len; i += kLanes) {
    const Vec s = load(scores + i) * a.scale + load(mask + i);
    store(scores + i, s);
    high = vmax(s, high);
  }
  float rest = -__builtin_inff();
  for (; i < a.seq_len; ++i) {
    scores[i] = scores[i] * a.scale + mask[i];
    rest = scores[i] > rest ? scores[i] : rest;
  }
  return reduce_max(vmax(set(rest), high));
}

// Turns one row of scores into weights e^(s - max), tile-packed as row `row` of the block; returns 1 / their sum,
// or 0 when the mask leaves no key.
template <class T>
BERT_OP_INLINE float softmax_row(float* scores, const float* mask, const AttentionArgs& a, std::int64_t padded,
                                 std::byte* weights, std::int64_t row) {
  constexpr bool kFast = T::type == ElementType::bf16;
  constexpr float kLog2E = 1.44269504088896341f;
  for (std::int64_t i = a.seq_len; i < padded; ++i) scores[i] = -__builtin_inff();
  constexpr std::int64_t kPerTile = elements_per_tile_row(T::type);
  std::byte* to = weights + row / kTileRows * (padded / kPerTile) * kTileBytes + row % kTileRows * kTileRowBytes;
  Vec sum = set(0.0f);
  const auto put = [&](std::int64_t i, Vec e) __attribute__((always_inline)) {
    sum += e;
    std::byte* at = to + i / kPerTile * kTileBytes + i % kPerTile * element_bytes(T::type);
    if constexpr (kFast)
      store(at, to_bf16(e));
    else
      store(at, e);
  };
  if (mask == nullptr) {
    Vec high = set(-__builtin_inff());
    for (std::int64_t i = 0; i < padded; i += kLanes) high = vmax(load(scores + i), high);
    const float factor = kFast ? a.scale * kLog2E : a.scale, shift = reduce_max(high) * factor;
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      const Vec x = load(scores + i) * factor - shift;
      put(i, kFast ? exp2_fast(x) : exp_accurate(x));
    }
  } else {
    const float top = add_mask(scores, mask, a);
    const bool none = top == -__builtin_inff();
    const float shift = none ? 0.0f : top;
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      const Vec x = load(scores + i) - shift;  // log2(e) comes last: before, a mask of the lowest float would overflow
      put(i, kFast ? exp2_fast(x * kLog2E) : exp_accurate(x));
    }
    if (none) return 0.0f;  // all weights are 0, or NaN where a score is
  }
  return 1.0f / reduce_add(sum);
}

template <class T>
void attention_of(const AttentionArgs& a) {
  using M = Micro<T>;
  constexpr std::int64_t kRows = M::kRows;
  constexpr std::int64_t kPerTile = elements_per_tile_row(T::type);
  const auto nothing = [] {};
  const std::int64_t padded = round_up(a.seq_len, 32);
  const std::int64_t row_bytes = a.head_size * element_bytes(T::type);
  const std::int64_t head_tiles = a.head_size / kPerTile, key_tiles = padded / kPerTile;
  const AttentionScratch s = carve<T>(a.scratch, padded, a.head_size);
  pack_keys<T>(s.keys, a, padded);
  pack_values<T>(s.values, a, padded);

  for (std::int64_t first = a.row_begin; first < a.row_end; first += kRows) {
    const std::int64_t rows = a.row_end - first < kRows ? a.row_end - first : kRows;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t tile = 0; tile < head_tiles; ++tile) {
        __builtin_memcpy(
            s.queries + (row / kTileRows * head_tiles + tile) * kTileBytes + row % kTileRows * kTileRowBytes,
            a.q + (first + row) * row_bytes + tile * kTileRowBytes, kTileRowBytes);
      }
    }
    for (std::int64_t key = 0; key < padded; key += kPanelColumns) {
      M::run(s.queries, head_tiles * kTileBytes, s.keys + key / kPanelColumns * head_tiles * kPanelTileBytes,
             head_tiles, s.scores + key, score_stride(padded), rows, nothing);
    }
    float inverse[kRowBlock];
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* mask = a.mask == nullptr ? nullptr : a.mask + (first + row) * a.mask_row_stride;
      inverse[row] = softmax_row<T>(s.scores + row * score_stride(padded), mask, a, padded, s.weights, row);
    }
    for (std::int64_t panel = 0; panel < a.head_size / kPanelColumns; ++panel) {
      M::run(s.weights, key_tiles * kTileBytes, s.values + panel * key_tiles * kPanelTileBytes, key_tiles, s.sums,
             kPanelColumns, rows, nothing);
      const std::int64_t to_panel = a.out_panel + panel;
      std::byte* base = a.out.base + to_panel / a.out.group_panels * a.out.group_stride +
                        to_panel % a.out.group_panels * a.out.panel_stride;
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t to_row = a.out_row + first + row;
        std::byte* to = base + to_row / kTileRows * a.out.block_stride + to_row % kTileRows * a.out.row_stride;
        for (int v = 0; v < kPanelColumns / kLanes; ++v) {
          const Vec value = load(s.sums + row * kPanelColumns + v * kLanes) * inverse[row];
          if (a.out_type == ElementType::bf16) {
            store(to + v * kLanes * 2, to_bf16(value));
          } else {
            store(to + v / (16 / kLanes) * a.out.half_stride + v % (16 / kLanes) * kLanes * 4, value);
          }
        }
      }
    }
  }
}

void attention(const AttentionArgs& a) {
  if (a.type == ElementType::bf16) return attention_of<Bf16>(a);
  attention_of<F32>(a);
}

}  // namespace
