// From a model's fp32 parameters to the packed arena.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "encoder/arena.h"

namespace bert_op {

// fp32 parameters of one layer, row-major as in torch: weights [out_features][in_features].
struct LayerParameters {
  const float* query_weight;
  const float* query_bias;
  const float* key_weight;
  const float* key_bias;
  const float* value_weight;
  const float* value_bias;
  const float* attention_output_weight;
  const float* attention_output_bias;
  const float* attention_norm_gamma;
  const float* attention_norm_beta;
  const float* intermediate_weight;
  const float* intermediate_bias;
  const float* output_weight;
  const float* output_bias;
  const float* output_norm_gamma;
  const float* output_norm_beta;
};

// What is known of a LayerNorm: null where nothing is.
struct NormParameters {
  const float* gamma = nullptr;
  const float* beta = nullptr;
};

// input_norm: the LayerNorm whose result the layer reads. static_ranges: null, or {min, max} of the inputs of QKV, attention output, intermediate and output: 8 floats.
void pack_layer(const Layer& layer, const LayerParameters& parameters, const NormParameters& input_norm,
                const float* static_ranges);

// Writes the factors of a linear layer that has them, for weights [rows][in_features]: ones where nothing is known of the norm. Before pack_linear, which
// divides by them.
void pack_smoothing(const Linear& linear, const float* weight, std::int64_t rows, const NormParameters& norm);

// One linear layer, rows [row_begin, row_begin + rows) of its weight matrix; both multiples of 32. For tests and pack_layer.
void pack_linear(const Linear& linear, const float* weight, const float* bias, std::int64_t row_begin,
                 std::int64_t rows);

}  // namespace bert_op
