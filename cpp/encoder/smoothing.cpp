#include "encoder/smoothing.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace bert_op {
namespace {

// As long doubles: these functions of doubles are younger than the oldest C library that the op runs on.
double log2_of(double value) { return static_cast<double>(std::log2(static_cast<long double>(value))); }
double exp2_of(double value) { return static_cast<double>(std::exp2(static_cast<long double>(value))); }

}  // namespace

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
    logarithms[i] = 0.25 * log2_of(squares[i] / static_cast<double>(rows) / channel);
    sum += logarithms[i];
    count += 1.0;
  }
  std::vector<float> factors(squares.size(), 1.0f);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    if (known[i] != 0) factors[i] = static_cast<float>(exp2_of(std::clamp(logarithms[i] - sum / count, -4.0, 4.0)));
  }
  return factors;
}

}  // namespace bert_op
