// The inner products on AMX tiles: 32 rows times 32 columns in four accumulator tiles. Loads and products alternate, so that
// a load's latency hides behind the product before it; `between` runs on the vector ports meanwhile.
// Instructions: Intel SDM volume 2, TDPBF16PS and TDPBUSD. fp32 is multiplied on the vector units here; amx_split.h has it
// on tiles.

namespace {

// Palette 1, all eight tiles 16 rows of 64 bytes. Layout: Intel SDM volume 1, "Tile configuration".
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// What the thread had configured before: torch's own AMX code remembers its configuration by thread and would not load it
// again. Data in its tiles is not kept.
thread_local TileConfig before_us;

// Inline assembly because GCC 12's _tile_loadconfig does not tell the compiler that the configuration is read.
void enter() {
  static constexpr TileConfig kConfig{};
  asm volatile("sttilecfg %0" : "=m"(before_us) : : "memory");
  asm volatile("ldtilecfg %0" : : "m"(kConfig) : "memory");
}

void leave() {
  if (before_us.palette == 0) {
    _tile_release();
  } else {
    asm volatile("ldtilecfg %0" : : "m"(before_us) : "memory");
  }
}

template <class T>
struct TileMicro {
  using Acc = Accumulator<T>;
  static constexpr int kRows = 32;
  static constexpr std::int64_t kLongestChunk = 8;  // weights and rows 16 KiB each, their sums 8, of 48 KiB of L1
  static constexpr bool kFinishBetween = true;

  static constexpr std::int64_t calls_per_tile(std::int64_t rows) { return rows > 0 ? 1 : 0; }

  template <class Between>
  static void run(const std::byte* a, std::int64_t block_stride, const std::byte* b, std::int64_t tiles, Acc* c,
                  std::int64_t c_stride, std::int64_t rows, Between&& between) {
    asm volatile("" : : : "memory");  // GCC 12's _tile_loadd does not say that it reads memory
    if (rows > kTileRows) {
      two_blocks(a, a + block_stride, b, tiles, c, c_stride, between);
    } else {
      one_block(a, b, tiles, c, c_stride, between);
    }
  }

 private:
  // The intrinsics take tile numbers as constants: 0-3 sums, 4-5 rows, 6-7 columns.
#define BERT_OP_TILE_PRODUCT(sum, row, column)  \
  do {                                          \
    if constexpr (T::type == ElementType::bf16) \
      _tile_dpbf16ps(sum, row, column);         \
    else                                        \
      _tile_dpbusd(sum, row, column);           \
  } while (false)

  template <class Between>
  static BERT_OP_INLINE void two_blocks(const std::byte* a0, const std::byte* a1, const std::byte* b,
                                        std::int64_t tiles, Acc* c, std::int64_t c_stride, Between&& between) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      _tile_loadd(6, b, kTileRowBytes);
      _tile_loadd(4, a0, kTileRowBytes);
      BERT_OP_TILE_PRODUCT(0, 4, 6);
      _tile_loadd(7, b + kTileBytes, kTileRowBytes);
      BERT_OP_TILE_PRODUCT(1, 4, 7);
      _tile_loadd(5, a1, kTileRowBytes);
      BERT_OP_TILE_PRODUCT(2, 5, 6);
      BERT_OP_TILE_PRODUCT(3, 5, 7);
      between();
      a0 += kTileBytes;
      a1 += kTileBytes;
      b += kPanelTileBytes;
    }
    _tile_stored(0, c, c_stride * 4);
    _tile_stored(1, c + 16, c_stride * 4);
    _tile_stored(2, c + 16 * c_stride, c_stride * 4);
    _tile_stored(3, c + 16 * c_stride + 16, c_stride * 4);
  }

  template <class Between>
  static BERT_OP_INLINE void one_block(const std::byte* a, const std::byte* b, std::int64_t tiles, Acc* c,
                                       std::int64_t c_stride, Between&& between) {
    _tile_zero(0);
    _tile_zero(1);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      _tile_loadd(6, b, kTileRowBytes);
      _tile_loadd(4, a, kTileRowBytes);
      BERT_OP_TILE_PRODUCT(0, 4, 6);
      _tile_loadd(7, b + kTileBytes, kTileRowBytes);
      BERT_OP_TILE_PRODUCT(1, 4, 7);
      between();
      a += kTileBytes;
      b += kPanelTileBytes;
    }
    _tile_stored(0, c, c_stride * 4);
    _tile_stored(1, c + 16, c_stride * 4);
  }
#undef BERT_OP_TILE_PRODUCT
};

template <class T>
struct MicroOf {
  using type = TileMicro<T>;
};
template <>
struct MicroOf<F32> {
  using type = VectorMicro<F32>;
};
template <class T>
using Micro = typename MicroOf<T>::type;

// fp32 takes six bf16 products (amx_split.h), which is what its peak counts.
std::int64_t tile_peak(ElementType type, std::int64_t rounds) {
  enter();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(6);
  for (std::int64_t round = 0; round < rounds; ++round) {
    if (type != ElementType::u8) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 6);
    } else {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 6);
      _tile_dpbusd(2, 4, 6);
      _tile_dpbusd(3, 4, 6);
    }
  }
  leave();
  const std::int64_t groups = rounds * 4 * 16 * 16 * 16;
  return type == ElementType::f32 ? groups * 2 * 2 / 6 : groups * 2 * (4 / element_bytes(type));
}

}  // namespace
