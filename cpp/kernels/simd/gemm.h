// activation(a x b + bias): as many rows as L2 holds go through all panels, each of which is read once; in a panel, chunks
// of K, so that its part stays in L1; then blocks of rows. What is left to do with a block's sums (dequantize, add up,
// bias, activation, convert, store) is done while the products of the next block run, if these leave the vector units free.

namespace {

// What the sums of one block of rows still need, row by row. Everything that a row needs is a pointer that moves on with it.
template <class T, Activation A, class Out, bool AddTo>
class Finish {
 public:
  Finish() = default;
  Finish(const GemmArgs& g, const Accumulator<T>* sums, std::int64_t first_row, std::int64_t rows, std::int64_t panel,
         std::int64_t chunk, std::int64_t chunks)
      : sums_(sums), left_((int)rows), last_(chunk + 1 == chunks), chunks_(chunks), add_stride_(g.add_stride) {
    const std::int64_t column = panel * kPanelColumns;
    float* partial = g.partial + first_row * kPanelColumns;
    start_ = chunk == 0 ? g.bias + column : partial;
    start_stride_ = chunk == 0 ? 0 : kPanelColumns;
    partial_ = partial;
    if constexpr (T::type == ElementType::u8) {
      row_scale_ = g.row_scale + first_row * chunks + chunk;
      weight_scale_ = g.weight_scale + chunk * g.columns + column;
      column_sum_ = g.column_sum + chunk * g.columns + column;
    }
    if constexpr (AddTo) {
      add_to_ = g.add_to + column;
      add_rows_ = g.add_rows + first_row;
    } else {  // first_row begins a block of 16
      out_ = g.out.base + panel / g.out.group_panels * g.out.group_stride +
             panel % g.out.group_panels * g.out.panel_stride + first_row / kTileRows * g.out.block_stride;
      row_stride_ = g.out.row_stride;
      half_stride_ = g.out.half_stride;
      to_next_block_ = g.out.block_stride - kTileRows * g.out.row_stride;
    }
  }

  BERT_OP_INLINE void step(int rows) {
    rows = rows < left_ ? rows : left_;
    if (rows <= 0) return;
    left_ -= rows;
    if (last_) {
      finish<true>(rows);
    } else {
      finish<false>(rows);
    }
  }

  BERT_OP_INLINE void all() { step(left_); }

 private:
  static constexpr int kVectors = kPanelColumns / kLanes;

  // Members are copied to locals: the compiler has to take it that a store through a pointer changes them.
  template <bool Last>
  BERT_OP_INLINE void finish(int rows) {
    const Accumulator<T>* sums = sums_;
    const float* start = start_;
    const std::int64_t start_stride = start_stride_;
    float* partial = partial_;
    const RowScale* row_scale = row_scale_;
    std::byte* out = out_;
    int row_of_block = row_of_block_;
    Vec weight_scale[kVectors], column_sum[kVectors];
    if constexpr (T::type == ElementType::u8) {
      for (int v = 0; v < kVectors; ++v) {
        weight_scale[v] = load(weight_scale_ + v * kLanes);
        column_sum[v] = load(column_sum_ + v * kLanes);
      }
    }
    for (int row = 0; row < rows; ++row) {
      Vec value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = load(start + v * kLanes);
        if constexpr (T::type == ElementType::u8) {
          const Vec product = to_float(load<VecInt>(sums + v * kLanes)) * row_scale->scale;
          value[v] = product * weight_scale[v] + (row_scale->offset * column_sum[v] + value[v]);
        } else {
          value[v] += load(sums + v * kLanes);
        }
      }
      sums += kPanelColumns;
      start += start_stride;
      row_scale += chunks_;
      if constexpr (!Last) {
        for (int v = 0; v < kVectors; ++v) store(partial + v * kLanes, value[v]);
        partial += kPanelColumns;
      } else {
        for (int v = 0; v < kVectors; ++v) value[v] = activate<A, Out::type == ElementType::bf16>(value[v]);
        if constexpr (AddTo) {
          float* to = add_to_ + *add_rows_++ * add_stride_;
          for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, value[v] + load(to + v * kLanes));
        } else {
          store_row(out, value);
          out += row_stride_;
          if (++row_of_block == kTileRows) {
            row_of_block = 0;
            out += to_next_block_;
          }
        }
      }
    }
    sums_ = sums;
    start_ = start;
    partial_ = partial;
    row_scale_ = row_scale;
    out_ = out;
    row_of_block_ = row_of_block;
  }

  BERT_OP_INLINE void store_row(std::byte* to, const Vec* value) {
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (Out::type == ElementType::bf16) {
        store(to + v * kLanes * 2, to_bf16(value[v]));
      } else {
        store(to + (v / (16 / kLanes)) * half_stride_ + (v % (16 / kLanes)) * kLanes * 4, value[v]);
      }
    }
  }

  const Accumulator<T>* sums_ = nullptr;
  int left_ = 0, row_of_block_ = 0;
  bool last_ = false;  // the last chunk of K: the rows are complete
  const float* start_ = nullptr;
  std::int64_t start_stride_ = 0;
  float* partial_ = nullptr;
  std::int64_t chunks_ = 1, add_stride_ = 0;
  const RowScale* row_scale_ = nullptr;
  const float *weight_scale_ = nullptr, *column_sum_ = nullptr;
  float* add_to_ = nullptr;
  const std::int64_t* add_rows_ = nullptr;
  std::byte* out_ = nullptr;
  std::int64_t row_stride_ = 0, half_stride_ = 0, to_next_block_ = 0;
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
  constexpr bool kScaled = T::type == ElementType::u8;  // then the chunks are those of the scales
  const std::int64_t chunk_length = kScaled ? chunk_tiles(T::type, g.tiles) : even_part(g.tiles, M::kLongestChunk);
  const std::int64_t chunks = ceil_div(g.tiles, chunk_length);
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
