// A rotation of the inputs of quantized linear layers. One scale serves a whole chunk of a row, and a few channels are often
// twenty times as large as the rest; mixed with their neighbours they no longer decide how coarse all others become. Rows of
// weights are rotated in the same way when they are packed, so products stay what they were, but for a factor of 64.
// (Ashkboos et al.: QuaRot, 2024.)
//
// Columns of a chunk are mixed in blocks of 256, 64 or 16, whichever still fits. With the columns of a block numbered
// 64 b + 16 a + 4 q + s, each of a, b, q and s from 0 to 3:
//
//   256, 64   mix over a; turn: (a, q) takes what stood at (a, (q + a) mod 4); mix over a again; in 256, mix over b
//   16        mix over q
//
// where to mix is to multiply with the regular Hadamard matrix of order 4, which makes of (w, x, y, z)
// (w + x + y - z, w + x - y + z, w - x + y + z, -w + x + y + z). What a block of 256 or 64 ends with depends on each of 64 or 16
// columns of it alike; s is not mixed. All of it is additions and one shuffle for 16 columns. Equal columns stay equal, so what
// they have in common is covered by the row's offset. A block of 64 is then doubled and one of 16 multiplied by 4, which makes
// the rotation eight times an orthogonal matrix throughout.
#pragma once

#include <cstdint>

namespace bert_op {

// Columns of the next block of a chunk that has `left` columns left, a multiple of 16.
static constexpr std::int64_t rotation_block(std::int64_t left) { return left >= 256 ? 256 : left >= 64 ? 64 : 16; }

// What a block is multiplied with in the end.
static constexpr float rotation_scale(std::int64_t block) { return block == 256 ? 1.0f : block == 64 ? 2.0f : 4.0f; }

// Rotates a chunk of `columns`, a multiple of 16, in place. For packing; kernels do it in registers.
void rotate_chunk(float* chunk, std::int64_t columns);

}  // namespace bert_op
