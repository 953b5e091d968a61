#include "encoder/shape.h"

#include <array>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace bert_op {
namespace {

constexpr std::array<const char*, 4> kPrecisions = {"fp32", "fp32_qint8", "bf16", "bf16_qint8"};

constexpr std::array<std::pair<const char*, Activation>, 6> kActivations = {{
    {"gelu", Activation::gelu_erf},
    {"gelu_python", Activation::gelu_erf},
    {"gelu_new", Activation::gelu_tanh},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_fast", Activation::gelu_tanh},
    {"relu", Activation::relu},
}};

void require(bool holds, const std::string& what, std::int64_t value, const std::string& supported) {
  if (!holds) throw std::invalid_argument(what + "=" + std::to_string(value) + " is not supported: " + supported);
}

}  // namespace

const char* precision_name(Precision precision) { return kPrecisions[static_cast<std::size_t>(precision)]; }

const char* activation_name(Activation activation) {
  for (const auto& [name, value] : kActivations) {
    if (value == activation) return name;
  }
  return "none";
}

const char* linear_name(LinearKind linear) {
  constexpr std::array<const char*, kLinears> kNames = {"qkv", "attention_output", "intermediate", "output"};
  return kNames[static_cast<std::size_t>(linear)];
}

Precision parse_precision(const std::string& name) {
  for (std::size_t i = 0; i < kPrecisions.size(); ++i) {
    if (name == kPrecisions[i]) return static_cast<Precision>(i);
  }
  throw std::invalid_argument("precision '" + name + "' is unknown: choose fp32, fp32_qint8, bf16 or bf16_qint8");
}

Activation parse_activation(const std::string& name) {
  std::string known;
  for (const auto& [known_name, value] : kActivations) {
    if (name == known_name) return value;
    known += known.empty() ? known_name : std::string(", ") + known_name;
  }
  throw std::invalid_argument("hidden_act '" + name + "' is not supported: the op has " + known);
}

void check_shape(const ModelShape& shape) {
  require(shape.num_layers >= 1 && shape.num_layers <= 1024, "num_hidden_layers", shape.num_layers, "1 to 1024");
  require(shape.num_heads >= 1, "num_attention_heads", shape.num_heads, "at least 1");
  require(shape.hidden_size >= 32 && shape.hidden_size % 32 == 0 && shape.hidden_size <= 65536, "hidden_size",
          shape.hidden_size, "a multiple of 32");
  require(shape.intermediate_size >= 32 && shape.intermediate_size % 32 == 0 && shape.intermediate_size <= 262144,
          "intermediate_size", shape.intermediate_size, "a multiple of 32");
  require(shape.hidden_size % shape.num_heads == 0, "num_attention_heads", shape.num_heads,
          "a divisor of hidden_size=" + std::to_string(shape.hidden_size));
  require(shape.kept < (1 << kLinears) && (shape.kept == 0 || linear_type(shape.precision) == ElementType::u8),
          "kept_linears", shape.kept, "0 to 15, and other than 0 in the int8 precisions only");
  const std::int64_t head = shape.head_size();
  require(head == 32 || head == 64 || head == 96 || head == 128, "head size (hidden_size / num_attention_heads)", head,
          "32, 64, 96 or 128");
  if (!(shape.layer_norm_eps >= 0.0f) || !std::isfinite(shape.layer_norm_eps)) {
    throw std::invalid_argument("layer_norm_eps must be a finite number of at least 0");
  }
}

}  // namespace bert_op
