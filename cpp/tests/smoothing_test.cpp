// Factors of smoothing against their formula, and where it does not apply.
#include "encoder/smoothing.h"

#include <cmath>

#include "tests/check.h"
#include "tests/operands.h"

namespace bert_op::testing {
namespace {

TEST(factors_share_out_what_is_large_on_one_side) {
  // Channel 1 is four times as large in the rows, channel 2 in the weights.
  const std::vector<float> weights = {1, 1, 4, 1, -1, 1, 4, 1}, gamma = {0, 4, 0, 1}, beta = {1, 0, -1, 0};
  const std::vector<float> factors = smoothing_factors(weights.data(), 2, 4, gamma.data(), beta.data());
  CHECK_CLOSE(factors[0], 1.0, 1e-6);
  CHECK_CLOSE(factors[1], 0.5, 1e-6);
  CHECK_CLOSE(factors[2], 2.0, 1e-6);
  CHECK_CLOSE(factors[3], 1.0, 1e-6);
}

TEST(channels_of_zeros_keep_one_and_none_is_beyond_sixteen) {
  const std::vector<float> weights = {1, 0, 1, 1, 1}, gamma = {1, 1, 0, 1e-30f, 1}, beta(5, 0.0f);
  const std::vector<float> factors = smoothing_factors(weights.data(), 1, 5, gamma.data(), beta.data());
  CHECK(factors[1] == 1.0f);
  CHECK(factors[2] == 1.0f);
  CHECK(factors[3] == 16.0f);
  CHECK(factors[0] == 0.0625f);
}

TEST(factors_do_not_depend_on_the_size_of_weights_or_norm) {
  Random random(1);
  const std::vector<float> weights = floats_of(random_matrix(3, 32, random).values);
  const std::vector<float> gamma = floats_of(random_matrix(1, 32, random).values), beta(32, 0.5f);
  std::vector<float> larger = weights, wider = gamma, further = beta;
  for (float& weight : larger) weight *= 1024.0f;
  for (std::size_t i = 0; i < 32; ++i) wider[i] *= 8.0f, further[i] *= 8.0f;
  const std::vector<float> one = smoothing_factors(weights.data(), 3, 32, gamma.data(), beta.data());
  const std::vector<float> other = smoothing_factors(larger.data(), 3, 32, wider.data(), further.data());
  double product = 0.0;
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK_CLOSE(one[i], other[i], 1e-6 * other[i]);
    product += std::log2(static_cast<double>(one[i]));
  }
  CHECK_CLOSE(product, 0.0, 1e-4);
}

}  // namespace
}  // namespace bert_op::testing
