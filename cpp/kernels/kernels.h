// What a tier offers: functions on raw pointers. No allocation, no threads, no exceptions inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/isa.h"
#include "kernels/layout.h"

namespace bert_op {

enum class Activation : std::uint8_t { none, gelu_erf, gelu_tanh, relu };

// An 8-bit activation stands for offset + scale * u8. One for each row and chunk of K.
struct RowScale {
  float scale;
  float offset;
};

// Where the 32 columns of (row, panel) go, in bytes from `base`:
//   (panel / group_panels) * group_stride + (panel % group_panels) * panel_stride
//   + (row / 16) * block_stride + (row % 16) * row_stride,    the columns 16-31 of fp32 another half_stride further.
// This one form covers tile-packed activations, row-major matrices and one matrix per attention head.
struct PanelStore {
  std::byte* base;
  std::int64_t group_panels;
  std::int64_t group_stride;
  std::int64_t panel_stride;
  std::int64_t block_stride;
  std::int64_t row_stride;
  std::int64_t half_stride;
};

// "f32", "bf16" or "u8". Throws std::invalid_argument.
ElementType parse_element_type(const std::string& name);

PanelStore store_tiles(void* base, ElementType type, std::int64_t tiles);
PanelStore store_rows(void* base, ElementType type, std::int64_t columns);
PanelStore store_heads(void* base, ElementType type, std::int64_t head_size, std::int64_t rows);

// activation(a x b + bias) for the panels [panel_begin, panel_end), stored or added to fp32 rows.
struct GemmArgs {
  ElementType type;                     // of a and b
  std::int64_t rows;                    // valid rows of a; the rest of the last row block is ignored
  std::int64_t tiles;                   // k tiles
  const std::byte* a;                   // activations, tile-packed
  const std::byte* b;                   // weights, panel 0
  const float* bias;                    // [columns]
  const float* weight_scale = nullptr;  // u8: [chunks][columns]
  const float* column_sum = nullptr;    // u8: [chunks][columns], sums of the weights of a chunk times weight_scale
  const RowScale* row_scale = nullptr;  // u8: [rows][chunks]
  std::int64_t columns;                 // row length of weight_scale and column_sum
  std::int64_t panel_begin;
  std::int64_t panel_end;
  std::int64_t pass_rows = 1 << 30;  // rows that go through all panels together; a multiple of kRowBlock
  float* partial;                    // scratch [round_up(rows, 32)][32], used when there are several chunks
  std::byte* split = nullptr;        // f32: Kernels::split_bytes(pass_rows, tiles) of scratch, or null: not split
  Activation activation = Activation::none;
  ElementType out_type = ElementType::f32;  // f32 or bf16
  PanelStore out{};                         // when add_to is null
  float* add_to = nullptr;                  // fp32 [.][add_stride]: row r of the result is added to row add_rows[r]
  const std::int64_t* add_rows = nullptr;
  std::int64_t add_stride = 0;
};

// softmax(q k^T * scale + mask) v of one head, for the query rows [row_begin, row_end).
struct AttentionArgs {
  ElementType type;    // f32 or bf16, of q, k, v and of the products
  const std::byte* q;  // [seq_len][head_size], rows next to each other; so are k and v
  const std::byte* k;
  const std::byte* v;
  std::int64_t seq_len;
  std::int64_t head_size;
  float scale;
  const float* mask;             // added to the scaled scores, or null; -inf in a whole row makes the row's result zero
  std::int64_t mask_row_stride;  // 0 when every query has the same mask
  std::int64_t row_begin;
  std::int64_t row_end;
  std::byte* scratch;  // attention_scratch_bytes(...)
  PanelStore out;
  std::int64_t out_row;    // row of `out` that query 0 goes to
  std::int64_t out_panel;  // panel of `out` that the head's first columns go to
  ElementType out_type;
};

// From one row of scores to the next. A cache line more than the keys take: rows that are 2 KiB apart would share two of the
// 64 sets of L1.
static constexpr std::int64_t score_stride(std::int64_t padded_keys) { return padded_keys + 16; }

std::int64_t attention_scratch_bytes(ElementType type, std::int64_t seq_len, std::int64_t head_size);

// Where normalized or gathered rows go: tile-packed, quantized on the way when type is u8.
struct PackedRows {
  ElementType type;
  std::byte* tiles;           // null: not wanted
  std::int64_t tile_count;    // k tiles of a row
  RowScale* row_scale;        // u8: [rows][chunks]
  const float* static_range;  // u8: null, or {min, max} known beforehand
  bool rotated = false;       // u8: quantized after the rotation of kernels/rotation.h, chunk by chunk
  const float* smoothing =
      nullptr;  // of rotated ones: what channels are multiplied by before it, [columns]; null: nothing
};

// rows[i] = LayerNorm(rows[i]) in place, statistics in fp32, then packed. x is fp32 [.][hidden_size].
struct LayerNormArgs {
  float* x;
  const std::int64_t* rows;  // packed row i stands at x + rows[i] * hidden_size
  std::int64_t hidden_size;
  const float* gamma;  // null: the rows are only packed
  const float* beta;
  float eps;
  std::int64_t row_begin;
  std::int64_t row_end;
  PackedRows packed;
};

// Row-major fp32 or bf16 columns, quantized to u8 per row and chunk, tile-packed.
struct QuantizeArgs {
  ElementType source_type;
  const std::byte* source;  // [rows][columns]
  std::int64_t columns;
  std::int64_t row_begin;
  std::int64_t row_end;
  PackedRows packed;
  std::int64_t column_begin = 0;  // of a packed row, where the first of the columns goes; begins a chunk
};

struct Kernels {
  const char* name;
  void (*enter)();  // before the first kernel on a thread (AMX: loads the tile configuration)
  void (*leave)();  // after the last one
  void (*gemm)(const GemmArgs&);
  void (*attention)(const AttentionArgs&);
  void (*layer_norm)(const LayerNormArgs&);
  void (*quantize)(const QuantizeArgs&);
  // Scratch of a gemm that multiplies fp32 as sums of bf16 parts; null on tiers that do not.
  std::int64_t (*split_bytes)(std::int64_t rows, std::int64_t tiles);
  // Runs the tier's densest multiply-add on registers only, `rounds` times; returns operations (multiply and add count as
  // two). Timed by the caller, this is the peak that a kernel's rate is compared with.
  std::int64_t (*peak)(ElementType, std::int64_t rounds);
};

const Kernels& kernels(Isa isa);

}  // namespace bert_op
