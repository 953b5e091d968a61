// What a packed model is: sizes, precision, activation. Names are those of Hugging Face and of the command line.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"

namespace bert_op {

enum class Precision : std::uint8_t { fp32, fp32_qint8, bf16, bf16_qint8 };

const char* precision_name(Precision precision);
const char* activation_name(Activation activation);

// Both throw std::invalid_argument, listing the known names. Several Hugging Face names mean one activation:
// gelu and gelu_python; gelu_new, gelu_pytorch_tanh and gelu_fast.
Precision parse_precision(const std::string& name);
Activation parse_activation(const std::string& name);

// Of the operands of linear layers.
constexpr ElementType linear_type(Precision precision) {
  if (precision == Precision::fp32) return ElementType::f32;
  if (precision == Precision::bf16) return ElementType::bf16;
  return ElementType::u8;
}

// Of everything between the linear layers that is stored: queries, keys, values, GELU's results.
constexpr ElementType float_type(Precision precision) {
  return precision == Precision::fp32 || precision == Precision::fp32_qint8 ? ElementType::f32 : ElementType::bf16;
}

// The linear layers of a layer, in the order of the arena.
enum class LinearKind : std::uint8_t { qkv, attention_output, intermediate, output };
constexpr int kLinears = 4;

const char* linear_name(LinearKind linear);

struct ModelShape {
  Precision precision;
  Activation activation;
  std::int64_t num_layers;
  std::int64_t hidden_size;
  std::int64_t num_heads;
  std::int64_t intermediate_size;
  float layer_norm_eps;
  bool static_quantization;
  std::uint8_t kept = 0;  // bit 1 << LinearKind: the int8 precisions leave these linear layers in float_type

  std::int64_t head_size() const { return hidden_size / num_heads; }
  ElementType type_of(LinearKind linear) const {
    return (kept >> static_cast<int>(linear) & 1) != 0 ? float_type(precision) : linear_type(precision);
  }
  // Whether u8 inputs are rotated before they are quantized. Ranges that are known beforehand are those of unrotated inputs.
  bool rotated() const { return !static_quantization; }
};

// Throws std::invalid_argument, naming the size, its value and what is supported.
void check_shape(const ModelShape& shape);

}  // namespace bert_op
