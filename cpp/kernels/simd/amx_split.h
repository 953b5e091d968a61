// fp32 products on the bf16 tiles. An fp32 number is exactly the sum of three bf16 ones, hi + mid + lo, each with the next 8 of
// its 24 bits of mantissa. Of the nine products of two such sums, the six that reach the last bit of the result are added
// up in fp32, the small ones first. (Henry, Tang, Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations, 2019.) Six times the products at sixteen times the rate of the vector units.
//
// A split tile pairs two fp32 tiles: lane i of a row holds neighbours 16 apart along K, which is where both stand already, in
// rows and in weights alike. The rows of a pass are split at its beginning; the weights of the next chunk while the
// products of this one run, into the other of two buffers.

namespace {

constexpr std::int64_t kSplitChunk = 4;  // pairs of k tiles: a chunk of split weights is 24 KiB
constexpr std::int64_t kSplitRowTile = 3 * kTileBytes;
constexpr std::int64_t kSplitPanelTile = 3 * kPanelTileBytes;

// One 64-byte row of hi, mid and lo, `part_stride` bytes apart, from one row of each tile of a pair.
BERT_OP_INLINE void split_row(std::byte* to, std::int64_t part_stride, VecUint even, VecUint odd) {
  constexpr std::uint32_t kUpper = 0xffff0000u;
  for (int part = 0; part < 3; ++part) {
    store(to + part * part_stride, (even >> 16) | (odd & kUpper));
    even = bit_cast<VecUint>(bit_cast<Vec>(even) - bit_cast<Vec>(even & kUpper));
    odd = bit_cast<VecUint>(bit_cast<Vec>(odd) - bit_cast<Vec>(odd & kUpper));
  }
}

// Splits [row_begin, row_end), both at the beginning of a tile: to[rows / 16][pairs][hi, mid, lo][16][64 B].
void split_rows(std::byte* to, const std::byte* a, std::int64_t tiles, std::int64_t row_begin, std::int64_t row_end) {
  for (std::int64_t block = row_begin / kTileRows; block * kTileRows < row_end; ++block) {
    for (std::int64_t tile = 0; tile < tiles; tile += 2) {
      const std::byte* from = a + (block * tiles + tile) * kTileBytes;
      for (std::int64_t row = 0; row < kTileRows; ++row, from += kTileRowBytes) {
        const VecUint odd = tile + 1 < tiles ? load<VecUint>(from + kTileBytes) : VecUint{};
        split_row(to + row * kTileRowBytes, kTileBytes, load<VecUint>(from), odd);
      }
      to += kSplitRowTile;
    }
  }
}

// Splits a chunk of one panel, a few rows at a time: to[pairs][hi, mid, lo][2][16][64 B].
class WeightSplit {
 public:
  WeightSplit() = default;
  WeightSplit(std::byte* to, const std::byte* panel, std::int64_t tiles, std::int64_t tile, std::int64_t pairs)
      : to_(to), from_(panel + tile * kPanelTileBytes), left_(tiles - tile), end_(pairs * kRowsOfPair) {}

  BERT_OP_INLINE void step(std::int64_t rows) {
    for (std::int64_t i = 0; i < rows && row_ < end_; ++i, ++row_) {
      const std::int64_t pair = row_ / kRowsOfPair, at = row_ % kRowsOfPair * kTileRowBytes;
      const std::byte* from = from_ + pair * 2 * kPanelTileBytes + at;
      __builtin_prefetch(from + kAhead, 0, 2);
      __builtin_prefetch(from + kAhead + kPanelTileBytes, 0, 2);
      const VecUint odd = 2 * pair + 1 < left_ ? load<VecUint>(from + kPanelTileBytes) : VecUint{};
      split_row(to_ + pair * kSplitPanelTile + at, kPanelTileBytes, load<VecUint>(from), odd);
    }
  }

  BERT_OP_INLINE void all() { step(end_); }

  std::int64_t rows() const { return end_; }

 private:
  static constexpr std::int64_t kRowsOfPair = 2 * kTileRows;
  static constexpr std::int64_t kAhead = 2 * kSplitChunk * kPanelTileBytes;  // one chunk further in memory
  std::byte* to_ = nullptr;
  const std::byte* from_ = nullptr;
  std::int64_t left_ = 0, row_ = 0, end_ = 0;
};

// 32 (or 16) rows times 32 columns over some pairs of k tiles. From product to product only one operand is loaded anew.
struct SplitMicro {
  static constexpr int kRows = 32;
  static constexpr int kStepsOfPair = 6;

  template <class Between>
  static void run(const std::byte* a, std::int64_t block_stride, const std::byte* b, std::int64_t pairs, float* c,
                  std::int64_t rows, Between&& between) {
    asm volatile("" : : : "memory");  // GCC 12's _tile_loadd does not say that it reads memory
    if (rows > kTileRows) {
      blocks<true>(a, block_stride, b, pairs, c, between);
    } else {
      blocks<false>(a, block_stride, b, pairs, c, between);
    }
  }

 private:
  template <bool Two>
  static BERT_OP_INLINE void load_rows(const std::byte* a, std::int64_t block_stride) {
    _tile_loadd(4, a, kTileRowBytes);
    if constexpr (Two) _tile_loadd(5, a + block_stride, kTileRowBytes);
  }

  static BERT_OP_INLINE void load_columns(const std::byte* b) {
    _tile_loadd(6, b, kTileRowBytes);
    _tile_loadd(7, b + kTileBytes, kTileRowBytes);
  }

  template <bool Two, class Between>
  static BERT_OP_INLINE void multiply(Between&& between) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (Two) {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    between();
  }

  template <bool Two, class Between>
  static BERT_OP_INLINE void blocks(const std::byte* a, std::int64_t block_stride, const std::byte* b,
                                    std::int64_t pairs, float* c, Between&& between) {
    constexpr std::int64_t kMid = 1, kLo = 2;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      load_columns(b);
      load_rows<Two>(a + kLo * kTileBytes, block_stride);
      multiply<Two>(between);  // lo hi
      load_rows<Two>(a + kMid * kTileBytes, block_stride);
      multiply<Two>(between);  // mid hi
      load_columns(b + kMid * kPanelTileBytes);
      multiply<Two>(between);  // mid mid
      load_rows<Two>(a, block_stride);
      multiply<Two>(between);  // hi mid
      load_columns(b + kLo * kPanelTileBytes);
      multiply<Two>(between);  // hi lo
      load_columns(b);
      multiply<Two>(between);  // hi hi
      a += kSplitRowTile;
      b += kSplitPanelTile;
    }
    constexpr std::int64_t kStride = kPanelColumns * 4;
    _tile_stored(0, c, kStride);
    _tile_stored(1, c + 16, kStride);
    if constexpr (Two) {
      _tile_stored(2, c + 16 * kPanelColumns, kStride);
      _tile_stored(3, c + 16 * kPanelColumns + 16, kStride);
    }
  }
};

template <Activation A, class Out, bool AddTo>
void split_gemm_blocks(const GemmArgs& g) {
  using M = SplitMicro;
  alignas(64) float sums[2][M::kRows * kPanelColumns];
  const std::int64_t pairs = ceil_div(g.tiles, 2), chunks = ceil_div(pairs, kSplitChunk);
  const auto chunk_pairs = [&](std::int64_t chunk) {
    const std::int64_t left = pairs - chunk * kSplitChunk;
    return left < kSplitChunk ? left : kSplitChunk;
  };
  std::byte* buffers = g.split;
  std::byte* rows_split = g.split + 2 * kSplitChunk * kSplitPanelTile;
  const auto weights = [&](std::int64_t item) {  // items: chunks of all panels, in the order of the arena
    const std::int64_t panel = g.panel_begin + item / chunks, chunk = item % chunks;
    return WeightSplit(buffers + item % 2 * kSplitChunk * kSplitPanelTile, g.b + panel * g.tiles * kPanelTileBytes,
                       g.tiles, chunk * 2 * kSplitChunk, chunk_pairs(chunk));
  };
  const std::int64_t items = (g.panel_end - g.panel_begin) * chunks;
  Finish<F32, A, Out, AddTo> before;
  int turn = 0;
  for (std::int64_t pass = 0; pass < g.rows && items > 0; pass += g.pass_rows) {
    const std::int64_t pass_end = g.rows - pass < g.pass_rows ? g.rows : pass + g.pass_rows;
    split_rows(rows_split, g.a, g.tiles, pass, pass_end);
    weights(0).all();
    for (std::int64_t item = 0; item < items; ++item) {
      const std::int64_t chunk = item % chunks, length = chunk_pairs(chunk);
      WeightSplit next = item + 1 < items ? weights(item + 1) : WeightSplit();
      const std::int64_t steps = length * M::kStepsOfPair;
      const std::int64_t weight_rows = ceil_div(next.rows(), ceil_div(pass_end - pass, M::kRows) * steps);
      const int finish_rows = (int)ceil_div(M::kRows, steps);
      for (std::int64_t row = pass; row < pass_end; row += M::kRows) {
        const std::int64_t rows = pass_end - row < M::kRows ? pass_end - row : M::kRows;
        const std::byte* a = rows_split + ((row - pass) / kTileRows * pairs + chunk * kSplitChunk) * kSplitRowTile;
        M::run(a, pairs * kSplitRowTile, buffers + item % 2 * kSplitChunk * kSplitPanelTile, length, sums[turn], rows,
               [&]() __attribute__((always_inline)) {
                 next.step(weight_rows);
                 before.step(finish_rows);
               });
        before.all();
        before = Finish<F32, A, Out, AddTo>(g, sums[turn], row, rows, g.panel_begin + item / chunks, chunk, chunks);
        turn ^= 1;
      }
      next.all();
    }
    before.all();  // the next pass overwrites nothing of it, but ends are simpler to see when they are ends
    before = {};
  }
}

std::int64_t split_bytes(std::int64_t rows, std::int64_t tiles) {
  return 2 * kSplitChunk * kSplitPanelTile + ceil_div(rows, kTileRows) * ceil_div(tiles, 2) * kSplitRowTile;
}

}  // namespace
