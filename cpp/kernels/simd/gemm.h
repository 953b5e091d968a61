// activation(a x b + bias): as many rows as L2 holds go through all panels, each of which is read once; in a panel, chunks
// of K, so that its part stays in L1; then blocks of rows. What is left to do with a block's sums (dequantize, add up,
// bias, activation, convert, store) is done while the products of the next block run, if these leave the vector units free.

namespace {

// What the sums of one block of rows still need.
template <class T, Activation A, class Out, bool AddTo>
class Finish {
 public:
  Finish() = default;
  Finish(const GemmArgs& g, const Accumulator<T>* sums, std::int64_t first_row, std::int64_t rows, std::int64_t panel,
         std::int64_t chunk, std::int64_t chunks)
      : g_(&g), sums_(sums), row_(first_row), first_row_(first_row), end_(first_row + rows), panel_(panel),
        chunk_(chunk), chunks_(chunks) {
    if constexpr (!AddTo) {
      panel_base_ = g.out.base + panel / g.out.group_panels * g.out.group_stride +
                    panel % g.out.group_panels * g.out.panel_stride;
    }
  }

  BERT_OP_INLINE void step(int rows) {
    for (int i = 0; i < rows && row_ < end_; ++i) finish_row(row_++);
  }

  BERT_OP_INLINE void all() {
    while (row_ < end_) finish_row(row_++);
  }

 private:
  static constexpr int kVectors = kPanelColumns / kLanes;

  BERT_OP_INLINE void finish_row(std::int64_t row) {
    const GemmArgs& g = *g_;
    const Accumulator<T>* sums = sums_ + (row - first_row_) * kPanelColumns;
    const std::int64_t column = panel_ * kPanelColumns;
    Vec value[kVectors];
    if constexpr (T::type == ElementType::u8) {
      const RowScale row_scale = g.row_scale[row * chunks_ + chunk_];
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t at = chunk_ * g.columns + column + v * kLanes;
        const Vec product = to_float(load<VecInt>(sums + v * kLanes)) * row_scale.scale;
        value[v] = product * load(g.weight_scale + at) + row_scale.offset * load(g.column_sum + at);
      }
    } else {
      for (int v = 0; v < kVectors; ++v) value[v] = load(sums + v * kLanes);
    }
    float* partial = g.partial + row * kPanelColumns;
    if (chunk_ > 0) {
      for (int v = 0; v < kVectors; ++v) value[v] += load(partial + v * kLanes);
    }
    if (chunk_ + 1 < chunks_) {
      for (int v = 0; v < kVectors; ++v) store(partial + v * kLanes, value[v]);
      return;
    }
    for (int v = 0; v < kVectors; ++v) {
      value[v] = activate<A, Out::type == ElementType::bf16>(value[v] + load(g.bias + column + v * kLanes));
    }
    if constexpr (AddTo) {
      float* to = g.add_to + g.add_rows[row] * g.add_stride + column;
      for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, value[v] + load(to + v * kLanes));
    } else {
      std::byte* to = panel_base_ + (row / kTileRows) * g.out.block_stride + (row % kTileRows) * g.out.row_stride;
      if constexpr (Out::type == ElementType::bf16) {
        for (int v = 0; v < kVectors; ++v) store(to + v * kLanes * 2, to_bf16(value[v]));
      } else {
        for (int v = 0; v < kVectors; ++v) {
          store(to + (v / (16 / kLanes)) * g.out.half_stride + (v % (16 / kLanes)) * kLanes * 4, value[v]);
        }
      }
    }
  }

  const GemmArgs* g_ = nullptr;
  const Accumulator<T>* sums_ = nullptr;
  std::int64_t row_ = 0, first_row_ = 0, end_ = 0, panel_ = 0, chunk_ = 0, chunks_ = 1;
  std::byte* panel_base_ = nullptr;
};

// Asks for the weights of the next chunk while this one is worked off, evenly spread over its products. The arena has all
// weights in the order of their use, so "next" is what follows in memory; a prefetch beyond the end is harmless.
class WeightStream {
 public:
  WeightStream(const std::byte* next, std::int64_t bytes, std::int64_t calls)
      : at_(next), lines_((int)ceil_div(ceil_div(bytes, 64), calls)), end_(next + bytes) {}

  BERT_OP_INLINE void step() {
    for (int i = 0; i < lines_ && at_ < end_; ++i, at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  const std::byte* at_;
  int lines_;
  const std::byte* end_;
};

#ifdef BERT_OP_TIER_MICRO
template <Activation A, class Out, bool AddTo>
void split_gemm_blocks(const GemmArgs& g);  // amx_split.h
#endif

template <class T, Activation A, class Out, bool AddTo>
void gemm_blocks(const GemmArgs& g) {
#ifdef BERT_OP_TIER_MICRO
  if constexpr (T::type == ElementType::f32) {
    if (g.split != nullptr) return split_gemm_blocks<A, Out, AddTo>(g);
  }
#endif
  using M = Micro<T>;
  constexpr int kRows = M::kRows;
  alignas(64) Accumulator<T> sums[2][kRows * kPanelColumns];
  const std::int64_t chunk_length = chunk_tiles(T::type, g.tiles);
  const std::int64_t chunks = chunk_count(T::type, g.tiles);
  Finish<T, A, Out, AddTo> before;
  int turn = 0;
  const auto work_off = [&](std::int64_t row_begin, std::int64_t row_end, std::int64_t panel, std::int64_t chunk) {
    const std::int64_t tile = chunk * chunk_length;
    const std::int64_t length = tile + chunk_length < g.tiles ? chunk_length : g.tiles - tile;
    const std::int64_t all = row_end - row_begin, block = all < kRows ? all : kRows;
    const int rows_per_call = (int)ceil_div(kRows, length * M::calls_per_tile(block));
    const std::int64_t calls = length * (all / kRows * M::calls_per_tile(kRows) + M::calls_per_tile(all % kRows));
    const std::byte* b = g.b + (panel * g.tiles + tile) * kPanelTileBytes;
    const std::int64_t chunk_bytes = length * kPanelTileBytes;
    WeightStream next_weights(b + chunk_bytes, chunk_bytes, calls);
    for (std::int64_t row = row_begin; row < row_end; row += kRows) {
      const std::int64_t rows = row_end - row < kRows ? row_end - row : kRows;
      const std::byte* a = g.a + (row / kTileRows * g.tiles + tile) * kTileBytes;
      M::run(a, g.tiles * kTileBytes, b, length, sums[turn], kPanelColumns, rows, [&]() __attribute__((always_inline)) {
        next_weights.step();
        if constexpr (M::kFinishBetween) before.step(rows_per_call);
      });
      before.all();
      before = Finish<T, A, Out, AddTo>(g, sums[turn], row, rows, panel, chunk, chunks);
      turn ^= 1;
    }
  };
  for (std::int64_t row = 0; row < g.rows; row += g.pass_rows) {
    const std::int64_t row_end = g.rows - row < g.pass_rows ? g.rows : row + g.pass_rows;
    for (std::int64_t panel = g.panel_begin; panel < g.panel_end; ++panel) {
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) work_off(row, row_end, panel, chunk);
    }
  }
  before.all();
}

template <class T, Activation A>
void gemm_with_activation(const GemmArgs& g) {
  if (g.out_type == ElementType::bf16) return gemm_blocks<T, A, Bf16, false>(g);
  gemm_blocks<T, A, F32, false>(g);
}

template <class T>
void gemm_of(const GemmArgs& g) {
  if (g.add_to != nullptr) return gemm_blocks<T, Activation::none, F32, true>(g);
  switch (g.activation) {
    case Activation::none: return gemm_with_activation<T, Activation::none>(g);
    case Activation::gelu_erf: return gemm_with_activation<T, Activation::gelu_erf>(g);
    case Activation::gelu_tanh: return gemm_with_activation<T, Activation::gelu_tanh>(g);
    case Activation::relu: return gemm_with_activation<T, Activation::relu>(g);
  }
}

void gemm(const GemmArgs& g) {
  switch (g.type) {
    case ElementType::f32: return gemm_of<F32>(g);
    case ElementType::bf16: return gemm_of<Bf16>(g);
    case ElementType::u8: return gemm_of<U8>(g);
  }
}

}  // namespace
