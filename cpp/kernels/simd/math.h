// exp, GELU and their faster, coarser forms for results that are stored as bf16. Accuracies are of the formula in exact
// arithmetic; coefficients are minimax fits (iteratively reweighted least squares), made for this project.

namespace {

// 2^n for integer n in [-126, 127].
BERT_OP_INLINE Vec exp2_int(VecInt n) { return bit_cast<Vec>((n + 127) << 23); }

// e^x, relative error 3e-9 before rounding; 0 below -87.3, where the result would be denormal; NaN stays NaN.
// x must not exceed 88.
BERT_OP_INLINE Vec exp_accurate(Vec x) {
  const Vec lowest = set(-87.3f);
  const VecInt n = round_to_int(vmax(lowest, x) * 1.44269504088896341f);
  const Vec nf = to_float(n);
  const Vec r = (x - nf * 0.693145751953125f) - nf * 1.42860682030941723e-6f;  // ln 2 in two parts (Cody and Waite)
  Vec p = r * 1.381460467236964e-3f + 8.368718738241188e-3f;
  p = p * r + 4.1668388100931056e-2f;
  p = p * r + 1.6666520616753383e-1f;
  p = p * r + 4.9999993447099544e-1f;
  p = p * (r * r) + r + 1.0f;
  const Vec y = p * exp2_int(n);
  return x < lowest ? set(0.0f) : y;
}

// 2^x, relative error 2.6e-6; 0 below -126; NaN stays NaN. x must not exceed 127.
BERT_OP_INLINE Vec exp2_fast(Vec x) {
  const Vec lowest = set(-126.0f);
  const VecInt n = round_to_int(vmax(lowest, x));
  const Vec f = x - to_float(n);
  Vec p = f * 9.570086466947481e-3f + 5.59179011628021e-2f;
  p = p * f + 2.4024745458638055e-1f;
  p = p * f + 6.931218099610398e-1f;
  p = p * f + 9.999992611882292e-1f;
  const Vec y = p * exp2_int(n);
  return x < lowest ? set(0.0f) : y;
}

// x Phi(x). erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + 0.4 z), the form of Abramowitz and Stegun 7.1.26 with a longer P:
// absolute error 2.8e-8, half a unit in the last place of 1 + erf.
BERT_OP_INLINE Vec gelu_erf_accurate(Vec x) {
  const Vec z0 = bit_cast<Vec>(bit_cast<VecUint>(x) & 0x7fffffffu) * 0.70710678118654752f;
  const Vec z = vmin(set(9.5f), z0);  // e^(-9.5^2) is 0, also times the largest x
  const Vec t = 1.0f / (1.0f + 0.4f * z);
  Vec p = t * -0.20025840061070102f + 0.7091439471276181f;
  p = p * t + -0.37090255329829525f;
  p = p * t + 0.468269909720134f;
  p = p * t + 0.16182523591443132f;
  p = p * t + 0.23192183355055482f;
  const Vec half_erfc = 0.5f * p * t * exp_accurate(-(z * z));  // Phi(-|x|)
  const Vec positive = x - x * half_erfc;
  return x < 0.0f ? x * half_erfc : positive;
}

// x Phi(x) with Phi an odd polynomial in x clamped to [-4, 4], exactly 0 and x beyond: absolute error 1.2e-4. The last
// coefficient is chosen so that q rounds to 1/8 at the clamp, with and without FMA; a unit off, and -1e6 would leave 0.1.
BERT_OP_INLINE Vec gelu_erf_fast(Vec x) {
  const Vec c = vmin(set(4.0f), vmax(set(-4.0f), x));
  const Vec u = c * c;
  Vec q = u * -4.839884653033708e-10f + 5.3460589667333315e-8f;
  q = q * u + -2.385690727332867e-6f;
  q = q * u + 5.8409818133555005e-5f;
  q = q * u + -8.902070848605616e-4f;
  q = q * u + 9.068661766494963e-3f;
  q = q * u + -6.511728518345686e-2f;
  q = q * u + 3.98219347e-1f;
  return x * (q * c + 0.5f);
}

// 0.5 x (1 + tanh(v)) = x / (1 + e^(-2v)), v = sqrt(2 / pi) (x + 0.044715 x^3).
BERT_OP_INLINE Vec gelu_tanh_exponent(Vec x) {
  const Vec twice_v = x * (1.5957691216057308f + 0.07135481282556269f * x * x);
  return vmin(set(88.0f), vmax(set(-88.0f), -twice_v));
}

BERT_OP_INLINE Vec gelu_tanh_accurate(Vec x) { return x / (1.0f + exp_accurate(gelu_tanh_exponent(x))); }

BERT_OP_INLINE Vec gelu_tanh_fast(Vec x) {
  return x / (1.0f + exp2_fast(gelu_tanh_exponent(x) * 1.44269504088896341f));
}

template <Activation A, bool Fast>
BERT_OP_INLINE Vec activate(Vec x) {
  if constexpr (A == Activation::gelu_erf) return Fast ? gelu_erf_fast(x) : gelu_erf_accurate(x);
  if constexpr (A == Activation::gelu_tanh) return Fast ? gelu_tanh_fast(x) : gelu_tanh_accurate(x);
  if constexpr (A == Activation::relu) return vmax(set(0.0f), x);
  return x;
}

}  // namespace
