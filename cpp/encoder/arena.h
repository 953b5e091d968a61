// The packed model: one block of bytes that describes itself and needs nothing else, so it can be an ordinary tensor that is
// traced, saved and loaded. All layers stand in the order in which they run; each begins with its four linear layers'
// weights in the layout of kernels/layout.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "encoder/shape.h"

namespace bert_op {

// One linear layer, as a view into the arena.
struct Linear {
  std::int64_t in_features;
  std::int64_t out_features;
  ElementType type;
  std::int64_t tiles;   // k tiles of in_features
  std::byte* weight;    // [out / 32][tiles][2][16][64 B]
  float* bias;          // [out]
  float* weight_scale;  // u8: [chunks][out]
  float* column_sum;    // u8: [chunks][out]
  float* static_range;  // u8: {min, max} of the input, meaningful when the model is statically quantized
  bool rotated;         // u8: made for rotated inputs (kernels/rotation.h)
  float* smoothing;  // u8 and rotated, where a LayerNorm's result is read: [in], the factors of its channels; else null
};

struct LayerNormWeights {
  float* gamma;
  float* beta;
};

struct Layer {
  Linear qkv;
  Linear attention_output;
  LayerNormWeights attention_norm;
  Linear intermediate;
  Linear output;
  LayerNormWeights output_norm;
};

// Bytes of the packed model. The shape must have passed check_shape.
std::size_t arena_bytes(const ModelShape& shape);

// Writes the head of an arena. `arena` has arena_bytes(shape) bytes.
void write_head(std::byte* arena, const ModelShape& shape);

// Reads and checks the head, every byte of it. `followed`: behind the model, which takes arena_bytes of the result, there may
// be others. Throws std::invalid_argument when these are not the bytes of a packed model.
ModelShape read_head(const std::byte* arena, std::size_t bytes, bool followed = false);

// The views of layer `index`. Kernels only read them.
Layer layer_view(const ModelShape& shape, std::byte* arena, std::int64_t index);

}  // namespace bert_op
