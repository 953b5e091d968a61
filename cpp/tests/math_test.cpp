// The activations of every tier, value by value: a product with zeros leaves activation(bias).
#include <cmath>
#include <limits>

#include "tests/check.h"
#include "tests/operands.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

std::vector<double> activated(const Kernels& tier, Activation activation, const std::vector<double>& x,
                              ElementType out_type) {
  Random random(1);
  const auto columns = static_cast<std::int64_t>(x.size());
  GemmOperands o(ElementType::f32, 1, 32, columns, random);
  std::fill(o.a.begin(), o.a.end(), std::byte{0});
  o.packed_bias = floats_of(x);
  std::vector<std::byte> out(static_cast<std::size_t>(columns * element_bytes(out_type)));
  GemmArgs args = o.args(tier);
  args.activation = activation;
  args.out_type = out_type;
  args.out = store_rows(out.data(), out_type, columns);
  {
    const Entered entered(tier);
    tier.gemm(args);
  }
  std::vector<double> result;
  for (std::int64_t i = 0; i < columns; ++i) {
    result.push_back(read_element(out_type, out.data() + i * element_bytes(out_type)));
  }
  return result;
}

// fp32 values from -14 to 14, denser near 0, and some far out; a multiple of 32 of them.
std::vector<double> arguments() {
  std::vector<double> x = {0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 40.0, -40.0,
                           1e3, -1e3, 1e6,   -1e6,   1e9,  -1e9,  1e12, -1e12};
  for (int i = -4000; i <= 4000; ++i) x.push_back(14.0 * std::pow(i / 4000.0, 3.0));
  while (x.size() % 32 != 0) x.push_back(0.5);
  for (double& value : x) value = static_cast<float>(value);
  return x;
}

void check_activation(Activation activation, ElementType out_type, double absolute, double relative) {
  const std::vector<double> x = arguments();
  for (const Kernels* tier : testable_kernels()) {
    const std::vector<double> y = activated(*tier, activation, x, out_type);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = reference::activate(activation, x[i]);
      const double scale = std::min(1.0, std::abs(x[i]));  // the activations vanish at 0 with x
      CHECK_CLOSE(y[i], expected, absolute * scale + relative * std::abs(expected) + 1e-37);
    }
  }
}

TEST(activations_for_fp32_results_are_as_exact_as_fp32) {
  check_activation(Activation::none, ElementType::f32, 0.0, 0.0);
  check_activation(Activation::relu, ElementType::f32, 0.0, 0.0);
  check_activation(Activation::gelu_erf, ElementType::f32, 1.5e-7, 1.5e-7);
  check_activation(Activation::gelu_tanh, ElementType::f32, 1.5e-7, 3e-7);
}

TEST(activations_for_bf16_results_are_as_exact_as_bf16) {
  check_activation(Activation::none, ElementType::bf16, 0.0, 0x1p-8);
  check_activation(Activation::relu, ElementType::bf16, 0.0, 0x1p-8);
  check_activation(Activation::gelu_erf, ElementType::bf16, 1.5e-4, 0x1.02p-8);
  check_activation(Activation::gelu_tanh, ElementType::bf16, 1e-5, 0x1.02p-8);
}

// Numbers of any size: never NaN, never a wrong sign, never more than |x|.
TEST(activations_stay_within_their_bounds_far_out) {
  std::vector<double> x;
  for (int exponent = -120; exponent <= 120; ++exponent) {
    x.push_back(std::ldexp(1.5, exponent));
    x.push_back(std::ldexp(-1.5, exponent));
  }
  while (x.size() % 32 != 0) x.push_back(1.0);
  for (const Kernels* tier : testable_kernels()) {
    for (const ElementType out_type : {ElementType::f32, ElementType::bf16}) {
      for (const Activation activation : {Activation::gelu_erf, Activation::gelu_tanh}) {
        const std::vector<double> y = activated(*tier, activation, x, out_type);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const bool holds = x[i] > 0.0 ? y[i] >= 0.49 * x[i] && y[i] <= 1.01 * x[i] : y[i] <= 0.0 && y[i] >= -0.18;
          CHECK(holds);
        }
      }
    }
  }
}

TEST(activations_keep_nan) {
  const std::vector<double> x(32, std::numeric_limits<double>::quiet_NaN());
  for (const Kernels* tier : testable_kernels()) {
    for (const ElementType out_type : {ElementType::f32, ElementType::bf16}) {
      for (const Activation activation :
           {Activation::none, Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
        for (const double y : activated(*tier, activation, x, out_type)) CHECK(std::isnan(y));
      }
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
