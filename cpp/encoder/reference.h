// What the encoder computes: BERT's layers as their authors describe them (Devlin et al. 2018, Vaswani et al. 2017, with
// LayerNorm after each residual connection), in double precision. Tests compare run_encoder with this.
#pragma once

#include <vector>

#include "encoder/shape.h"
#include "kernels/reference.h"

namespace bert_op::reference {

struct Linear {
  Matrix weight;  // [out_features][in_features]
  std::vector<double> bias;
};

struct LayerNorm {
  std::vector<double> gamma, beta;
};

struct EncoderLayer {
  Linear query, key, value, attention_output;
  LayerNorm attention_norm;
  Linear intermediate, output;
  LayerNorm output_norm;
};

// One sequence through all layers. hidden_states: [seq_len][hidden_size]. masks: added to the scores of each head, empty for
// no mask, one for all heads or one for each; each is [1][seq_len] or [seq_len][seq_len].
Matrix encoder(const ModelShape& shape, const std::vector<EncoderLayer>& layers, Matrix hidden_states,
               const std::vector<Matrix>& masks);

}  // namespace bert_op::reference
