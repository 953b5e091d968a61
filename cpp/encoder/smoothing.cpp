#include "encoder/smoothing.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace bert_op {

std::vector<float> smoothing_factors(const float* weight, std::int64_t rows, std::int64_t columns, const float* gamma,
                                     const float* beta) {
  std::vector<double> squares(static_cast<std::size_t>(columns), 0.0);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* weights = weight + row * columns;
    for (std::size_t i = 0; i < squares.size(); ++i) squares[i] += double{weights[i]} * weights[i];
  }
  std::vector<double> logarithms(squares.size(), 0.0);
  std::vector<char> known(squares.size(), 0);
  double sum = 0.0, count = 0.0;
  for (std::size_t i = 0; i < squares.size(); ++i) {
    const double channel = double{gamma[i]} * gamma[i] + double{beta[i]} * beta[i];
    if (squares[i] == 0.0 || channel == 0.0) continue;
    known[i] = 1;
    logarithms[i] = 0.25 * std::log2(squares[i] / static_cast<double>(rows) / channel);
    sum += logarithms[i];
    count += 1.0;
  }
  std::vector<float> factors(squares.size(), 1.0f);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    if (known[i] != 0) factors[i] = static_cast<float>(std::exp2(std::clamp(logarithms[i] - sum / count, -4.0, 4.0)));
  }
  return factors;
}

}  // namespace bert_op
