// exp, GELU and their faster, coarser forms for results that are stored as bf16. Accuracies are of the formula in exact
// arithmetic; coefficients are minimax fits (iteratively reweighted least squares), made for this project.

namespace {

// p 2^n for whole n in [-126, 127].
BERT_OP_INLINE Vec times_exp2(Vec p, VecInt n) { return p * bit_cast<Vec>((n + 127) << 23); }

// e^x, relative error 3e-9 before rounding; 0 below -87.3, where the result would be denormal; NaN stays NaN.
// x must not exceed 88.
BERT_OP_INLINE Vec exp_accurate(Vec x) {
  const Vec lowest = set(-87.3f);
  const Vec power = vmax(lowest, x) * 1.44269504088896341f;
#if defined(__AVX512F__)
  const Vec nf = (Vec)_mm512_roundscale_ps((__m512)power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const VecInt n = round_to_int(power);
  const Vec nf = to_float(n);
#endif
  const Vec r = (x - nf * 0.693145751953125f) - nf * 1.42860682030941723e-6f;  // ln 2 in two parts (Cody and Waite)
  Vec p = r * 1.381460467236964e-3f + 8.368718738241188e-3f;
  p = p * r + 4.1668388100931056e-2f;
  p = p * r + 1.6666520616753383e-1f;
  p = p * r + 4.9999993447099544e-1f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 not_below = _mm512_cmp_ps_mask((__m512)x, (__m512)lowest, _CMP_NLT_UQ);
  return (Vec)_mm512_maskz_scalef_ps(not_below, (__m512)p, (__m512)nf);
#else
  return x < lowest ? set(0.0f) : times_exp2(p, n);
#endif
}

// 2^x, relative error 7.5e-5, a 25th of what rounding to bf16 adds; below -126 0 or denormal; NaN stays NaN. x must not
// exceed 127.
BERT_OP_INLINE Vec exp2_fast(Vec x) {
  const auto exp2_of_fraction = [](Vec f) __attribute__((always_inline)) {
    Vec p = f * 7.802452308157505e-2f + 2.2606715479518885e-1f;
    p = p * f + 6.958335407031545e-1f;
    return p * f + 9.99925218579918e-1f;
  };
#if defined(__AVX512F__)
  // x - floor(x), and p 2^floor(x): both instructions have infinities and NaN right.
  const Vec fraction = (Vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return (Vec)_mm512_scalef_ps((__m512)exp2_of_fraction(fraction), (__m512)x);
#else
  const Vec lowest = set(-126.0f);
  const VecInt n = round_to_int(vmax(lowest, x) - 0.5f);
  const Vec y = times_exp2(exp2_of_fraction(x - to_float(n)), n);
  return x < lowest ? set(0.0f) : y;
#endif
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
  const Vec c = clamp_magnitude(x, 4.0f);
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
