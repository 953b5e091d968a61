#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bert_op::reference {

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x < 0.0 ? 0.0 : x;
    case Activation::gelu_erf: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

Matrix gemm(const Matrix& x, const Matrix& weight, const std::vector<double>& bias, Activation activation) {
  Matrix result(x.rows, weight.rows);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t n = 0; n < weight.rows; ++n) {
      double sum = bias[static_cast<std::size_t>(n)];
      for (std::int64_t k = 0; k < x.columns; ++k) sum += x(row, k) * weight(n, k);
      result(row, n) = activate(activation, sum);
    }
  }
  return result;
}

double QuantizedRows::value(std::int64_t row, std::int64_t column) const {
  const auto at = static_cast<std::size_t>(row * chunks() + column / chunk_columns);
  return offset[at] + scale[at] * levels[static_cast<std::size_t>(row * columns + column)];
}

namespace {

constexpr int kHadamard[4][4] = {{1, 1, 1, -1}, {1, 1, -1, 1}, {1, -1, 1, 1}, {-1, 1, 1, 1}};

// Column 64 b + 16 a + 4 q + s of the result, for each of them, is what `at` makes of a, b, q and s.
template <class At>
std::vector<double> each_column(std::size_t columns, At at) {
  std::vector<double> result(columns);
  for (std::size_t i = 0; i < columns; ++i) result[i] = at(i / 16 % 4, i / 64, i / 4 % 4, i % 4);
  return result;
}

std::vector<double> rotate_block(const std::vector<double>& block) {
  using Index = std::size_t;
  const auto place = [](Index a, Index b, Index q, Index s) { return 64 * b + 16 * a + 4 * q + s; };
  const auto mixed = [](Index row, auto value) {
    double sum = 0.0;
    for (Index i = 0; i < 4; ++i) sum += kHadamard[row][i] * value(i);
    return sum;
  };
  const auto over_a = [&](const std::vector<double>& x) {
    return each_column(x.size(), [&](Index a, Index b, Index q, Index s) {
      return mixed(a, [&](Index i) { return x[place(i, b, q, s)]; });
    });
  };
  const std::size_t size = block.size();
  std::vector<double> x = block;
  if (size == 16) {
    x = each_column(size, [&](Index, Index, Index q, Index s) {
      return mixed(q, [&](Index i) { return block[place(0, 0, i, s)]; });
    });
  } else {
    const std::vector<double> first = over_a(block);
    x = over_a(
        each_column(size, [&](Index a, Index b, Index q, Index s) { return first[place(a, b, (q + a) % 4, s)]; }));
  }
  if (size == 256) {
    const std::vector<double> before = x;
    x = each_column(size, [&](Index a, Index b, Index q, Index s) {
      return mixed(b, [&](Index i) { return before[place(a, i, q, s)]; });
    });
  }
  for (double& value : x) value *= 16.0 / std::sqrt(static_cast<double>(size));
  return x;
}

}  // namespace

Matrix rotate(const Matrix& x, std::int64_t chunk_columns) {
  Matrix result(x.rows, x.columns);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t first = 0; first < x.columns;) {
      const std::int64_t left = std::min(chunk_columns - first % chunk_columns, x.columns - first);
      const std::int64_t size = left >= 256 ? 256 : left >= 64 ? 64 : 16;
      const auto begin = x.values.begin() + row * x.columns + first;
      const std::vector<double> block = rotate_block({begin, begin + size});
      std::copy(block.begin(), block.end(), result.values.begin() + row * x.columns + first);
      first += size;
    }
  }
  return result;
}

QuantizedRows quantize_rows(const Matrix& x, std::int64_t chunk_columns, const double* static_range) {
  QuantizedRows result{
      .rows = x.rows, .columns = x.columns, .chunk_columns = chunk_columns, .levels = {}, .scale = {}, .offset = {}};
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t begin = 0; begin < x.columns; begin += chunk_columns) {
      const std::int64_t end = std::min(x.columns, begin + chunk_columns);
      double low = x(row, begin), high = x(row, begin);
      for (std::int64_t k = begin; k < end; ++k) {
        low = std::min(low, x(row, k));
        high = std::max(high, x(row, k));
      }
      if (static_range != nullptr) {
        low = static_range[0];
        high = static_range[1];
      }
      const double scale = (high - low) / 255.0;
      for (std::int64_t k = begin; k < end; ++k) {
        const double level = scale > 0.0 ? std::nearbyint((x(row, k) - low) / scale) : 0.0;
        result.levels.push_back(static_cast<std::uint8_t>(std::clamp(level, 0.0, 255.0)));
      }
      result.scale.push_back(scale);
      result.offset.push_back(low);
    }
  }
  return result;
}

double QuantizedWeights::scale_of(std::int64_t row, std::int64_t column) const {
  const std::int64_t chunks = (columns + chunk_columns - 1) / chunk_columns;
  return scale[static_cast<std::size_t>(row * chunks + column / chunk_columns)];
}

QuantizedWeights quantize_weights(const Matrix& weight, std::int64_t chunk_columns) {
  QuantizedWeights result{
      .rows = weight.rows, .columns = weight.columns, .chunk_columns = chunk_columns, .levels = {}, .scale = {}};
  for (std::int64_t n = 0; n < weight.rows; ++n) {
    for (std::int64_t begin = 0; begin < weight.columns; begin += chunk_columns) {
      const std::int64_t end = std::min(weight.columns, begin + chunk_columns);
      double largest = 0.0;
      for (std::int64_t k = begin; k < end; ++k) largest = std::max(largest, std::abs(weight(n, k)));
      const double scale = largest / 127.0;
      for (std::int64_t k = begin; k < end; ++k) {
        result.levels.push_back(static_cast<std::int8_t>(scale > 0.0 ? std::nearbyint(weight(n, k) / scale) : 0.0));
      }
      result.scale.push_back(scale);
    }
  }
  return result;
}

Matrix gemm(const QuantizedRows& x, const QuantizedWeights& weight, const std::vector<double>& bias,
            Activation activation) {
  Matrix values(x.rows, x.columns), weights(weight.rows, weight.columns);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t k = 0; k < x.columns; ++k) values(row, k) = x.value(row, k);
  }
  for (std::int64_t n = 0; n < weight.rows; ++n) {
    for (std::int64_t k = 0; k < weight.columns; ++k) {
      const auto level = weight.levels[static_cast<std::size_t>(n * weight.columns + k)];
      weights(n, k) = weight.scale_of(n, k) * level;
    }
  }
  return gemm(values, weights, bias, activation);
}

Matrix attention(const Matrix& q, const Matrix& k, const Matrix& v, double scale, const Matrix& mask) {
  Matrix result(q.rows, v.columns);
  for (std::int64_t query = 0; query < q.rows; ++query) {
    std::vector<double> scores;
    for (std::int64_t key = 0; key < k.rows; ++key) {
      double score = 0.0;
      for (std::int64_t i = 0; i < q.columns; ++i) score += q(query, i) * k(key, i);
      scores.push_back(score * scale + (mask.rows == 0 ? 0.0 : mask(mask.rows == 1 ? 0 : query, key)));
    }
    const double highest = *std::max_element(scores.begin(), scores.end());
    if (highest == -std::numeric_limits<double>::infinity()) continue;
    double total = 0.0;
    for (double& score : scores) total += score = std::exp(score - highest);
    for (std::int64_t key = 0; key < k.rows; ++key) {
      const double weight = scores[static_cast<std::size_t>(key)] / total;
      for (std::int64_t i = 0; i < v.columns; ++i) result(query, i) += weight * v(key, i);
    }
  }
  return result;
}

Matrix layer_norm(const Matrix& x, const std::vector<double>& gamma, const std::vector<double>& beta, double eps) {
  Matrix result(x.rows, x.columns);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    double mean = 0.0, variance = 0.0;
    for (std::int64_t i = 0; i < x.columns; ++i) mean += x(row, i) / static_cast<double>(x.columns);
    for (std::int64_t i = 0; i < x.columns; ++i) {
      variance += (x(row, i) - mean) * (x(row, i) - mean) / static_cast<double>(x.columns);
    }
    for (std::int64_t i = 0; i < x.columns; ++i) {
      const auto at = static_cast<std::size_t>(i);
      result(row, i) = (x(row, i) - mean) / std::sqrt(variance + eps) * gamma[at] + beta[at];
    }
  }
  return result;
}

}  // namespace bert_op::reference
