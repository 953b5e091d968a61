// The one memory layout that every matrix operand has, on every tier.
//
// A tile is 16 rows of 64 bytes (1 KiB): what one AMX tile register holds, and one cache line a row.
// A 64-byte row holds 16 groups of 4 bytes; a group is 1 fp32, 2 bf16 or 4 int8 neighbours along K.
//
//   activations  [rows / 16][k_tiles][16 rows][16 groups]            a group: neighbours along K of one row
//   weights      [columns / 32][k_tiles][2][16 groups][16 columns]   a group: neighbours along K of one column ("VNNI")
//
// A kernel reads both front to back. The same packed weights serve AMX (tdp*), AVX-512 (vdpbf16ps, vpdpbusd: one row of a
// weight tile is one register) and the narrower tiers, so a packed model can move between machines.
#pragma once

#include <cstdint>

namespace bert_op {

// fp32 and bf16 name both operands; u8 is an activation of 8 bits, multiplied with weights of signed 8 bits.
enum class ElementType : std::uint8_t { f32, bf16, u8 };

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileRowBytes = 64;
constexpr std::int64_t kTileBytes = kTileRows * kTileRowBytes;
constexpr std::int64_t kPanelColumns = 32;                // columns of one panel of weights: two tiles side by side
constexpr std::int64_t kPanelTileBytes = 2 * kTileBytes;  // what a panel holds for one k tile
constexpr std::int64_t kRowBlock = 32;                    // activations are allocated in multiples of this many rows

// Static, for the reason given in simd/vec.h: in a build without inlining a shared copy of these would be a tier's.
static constexpr std::int64_t element_bytes(ElementType type) {
  return type == ElementType::f32 ? 4 : type == ElementType::bf16 ? 2 : 1;
}

static constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
static constexpr std::int64_t round_up(std::int64_t value, std::int64_t to) { return ceil_div(value, to) * to; }

static constexpr std::int64_t elements_per_tile_row(ElementType type) { return kTileRowBytes / element_bytes(type); }

// Number of k tiles that K elements take; the last one is filled up with zeros.
static constexpr std::int64_t k_tiles(ElementType type, std::int64_t k) {
  return ceil_div(k, elements_per_tile_row(type));
}

// The length of parts of `tiles` that are as equal as can be, none longer than `longest`.
static constexpr std::int64_t even_part(std::int64_t tiles, std::int64_t longest) {
  return ceil_div(tiles, ceil_div(tiles, longest));
}

// Of u8, a chunk is also what one scale of a row covers: at most this many tiles, and whole blocks of the rotation if there
// are several.
static constexpr std::int64_t kLongestScaledChunk = 12;

// K is worked off in chunks, so that a panel's chunk stays in L1 and fp32 sums stay short.
static constexpr std::int64_t chunk_tiles(ElementType type, std::int64_t tiles) {
  if (type != ElementType::u8) return even_part(tiles, type == ElementType::f32 ? 8 : 12);
  return tiles <= kLongestScaledChunk ? tiles : round_up(even_part(tiles, kLongestScaledChunk), 4);
}

static constexpr std::int64_t chunk_count(ElementType type, std::int64_t tiles) {
  return ceil_div(tiles, chunk_tiles(type, tiles));
}

// Bytes of `rows` tile-packed activations.
static constexpr std::int64_t activation_bytes(std::int64_t rows, std::int64_t tiles) {
  return round_up(rows, kRowBlock) / kTileRows * tiles * kTileBytes;
}

}  // namespace bert_op
