#include "encoder/reference.h"

#include <cmath>

namespace bert_op::reference {
namespace {

Matrix apply(const Linear& linear, const Matrix& x, Activation activation = Activation::none) {
  return gemm(x, linear.weight, linear.bias, activation);
}

Matrix add_and_normalize(const Matrix& residual, Matrix x, const LayerNorm& norm, double eps) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += residual.values[i];
  return layer_norm(x, norm.gamma, norm.beta, eps);
}

Matrix columns_of(const Matrix& x, std::int64_t first, std::int64_t count) {
  Matrix part(x.rows, count);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t i = 0; i < count; ++i) part(row, i) = x(row, first + i);
  }
  return part;
}

Matrix self_attention(const ModelShape& shape, const EncoderLayer& layer, const Matrix& x,
                      const std::vector<Matrix>& masks) {
  const Matrix query = apply(layer.query, x), key = apply(layer.key, x), value = apply(layer.value, x);
  const std::int64_t head_size = shape.head_size();
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_size));
  Matrix context(x.rows, shape.hidden_size);
  for (std::int64_t head = 0; head < shape.num_heads; ++head) {
    const std::int64_t first = head * head_size;
    const Matrix mask = masks.empty() ? Matrix() : masks[masks.size() == 1 ? 0 : static_cast<std::size_t>(head)];
    const Matrix result = attention(columns_of(query, first, head_size), columns_of(key, first, head_size),
                                    columns_of(value, first, head_size), scale, mask);
    for (std::int64_t row = 0; row < x.rows; ++row) {
      for (std::int64_t i = 0; i < head_size; ++i) context(row, first + i) = result(row, i);
    }
  }
  return context;
}

}  // namespace

Matrix encoder(const ModelShape& shape, const std::vector<EncoderLayer>& layers, Matrix x,
               const std::vector<Matrix>& masks) {
  const double eps = shape.layer_norm_eps;
  for (const EncoderLayer& layer : layers) {
    const Matrix context = self_attention(shape, layer, x, masks);
    x = add_and_normalize(x, apply(layer.attention_output, context), layer.attention_norm, eps);
    const Matrix intermediate = apply(layer.intermediate, x, shape.activation);
    x = add_and_normalize(x, apply(layer.output, intermediate), layer.output_norm, eps);
  }
  return x;
}

}  // namespace bert_op::reference
