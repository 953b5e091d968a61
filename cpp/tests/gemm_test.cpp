// Every tier's gemm against the reference: all operand types, activations, result types and forms of output.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/check.h"
#include "tests/operands.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

constexpr double kEps = 0x1p-24;  // half a unit in the last place of 1 in fp32
constexpr double kBf16Eps = 0x1p-8;
constexpr ElementType kTypes[] = {ElementType::f32, ElementType::bf16, ElementType::u8};
constexpr Activation kActivations[] = {Activation::none, Activation::gelu_erf, Activation::gelu_tanh, Activation::relu};
const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

// Where a form of output puts (row, column), said independently of PanelStore.
struct Form {
  enum Kind { tiles, rows, heads } kind;
  std::int64_t head_size;

  std::int64_t offset(ElementType type, const GemmOperands& o, std::int64_t row, std::int64_t column) const {
    const std::int64_t bytes = element_bytes(type);
    if (kind == tiles) return activation_offset(type, k_tiles(type, o.columns), row, column);
    if (kind == rows) return (row * o.columns + column) * bytes;
    return ((column / head_size * padded(o) + row) * head_size + column % head_size) * bytes;
  }
  PanelStore store(void* base, ElementType type, const GemmOperands& o) const {
    if (kind == tiles) return store_tiles(base, type, k_tiles(type, o.columns));
    if (kind == rows) return store_rows(base, type, o.columns);
    return store_heads(base, type, head_size, padded(o));
  }
  static std::int64_t padded(const GemmOperands& o) { return round_up(o.rows, kRowBlock); }
};

constexpr Form kRows{Form::rows, 0};

// Runs the panels of `args` and reads the result back; checks that nothing else was written.
Matrix run(const Kernels& tier, GemmOperands& o, GemmArgs args, ElementType out_type, Form form = kRows) {
  GuardedBytes out(Form::padded(o) * o.columns * element_bytes(out_type));
  args.out_type = out_type;
  args.out = form.store(out.data(), out_type, o);
  {
    const Entered entered(tier);
    tier.gemm(args);
  }
  Matrix result(o.rows, o.columns);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t column = args.panel_begin * 32; column < args.panel_end * 32; ++column) {
      const std::int64_t at = form.offset(out_type, o, row, column);
      out.expect(at, element_bytes(out_type));
      result(row, column) = read_element(out_type, out.data() + at);
    }
  }
  CHECK(out.rest_untouched());
  CHECK(o.scratch_intact());
  return result;
}

// Largest error in units of what the arithmetic may lose: fp32 sums of k products, the activation's documented
// error, and rounding to bf16.
double excess(const Matrix& result, const Matrix& expected, const Matrix& magnitude, const GemmOperands& o,
              Activation activation, ElementType out_type) {
  const bool fast = out_type == ElementType::bf16;
  double worst = 0.0;
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const double wanted = expected.values[i];
    double allowed = 4 * kEps * std::sqrt(static_cast<double>(o.k) + 16) * magnitude.values[i];
    if (activation == Activation::gelu_erf) allowed += fast ? 1.3e-4 : 1e-7 * magnitude.values[i];
    if (activation == Activation::gelu_tanh) allowed += (fast ? 4e-6 : 4e-7) * magnitude.values[i];
    if (fast) allowed += kBf16Eps * std::abs(wanted);
    const double error = std::abs(result.values[i] - wanted) / allowed;
    worst = std::isnan(error) ? kInfinity : std::max(worst, error);
  }
  return worst;
}

bool same_bits(const Matrix& one, const Matrix& other) {
  return std::memcmp(one.values.data(), other.values.data(), one.values.size() * sizeof(double)) == 0;
}

TEST(gemm_of_any_number_of_rows) {
  Random random(1);
  for (const ElementType type : kTypes) {
    for (std::int64_t rows = 1; rows <= 70; ++rows) {
      GemmOperands o(type, rows, 64, 64, random);
      const Matrix expected = o.expected(Activation::none), magnitude = o.magnitude();
      for (const Kernels* tier : testable_kernels()) {
        const Matrix result = run(*tier, o, o.args(*tier), ElementType::f32);
        CHECK(excess(result, expected, magnitude, o, Activation::none, ElementType::f32) <= 1.0);
      }
    }
  }
}

TEST(gemm_of_any_k) {
  Random random(2);
  for (const ElementType type : kTypes) {
    for (std::int64_t k = 32; k <= 1056; k += 32) {
      GemmOperands o(type, 33, k, 32, random);
      const Matrix expected = o.expected(Activation::none), magnitude = o.magnitude();
      for (const Kernels* tier : testable_kernels()) {
        const Matrix result = run(*tier, o, o.args(*tier), ElementType::f32);
        CHECK(excess(result, expected, magnitude, o, Activation::none, ElementType::f32) <= 1.0);
      }
    }
  }
}

TEST(gemm_with_every_activation_result_type_and_form) {
  Random random(3);
  const Form forms[] = {kRows, {Form::tiles, 0}, {Form::heads, 32}, {Form::heads, 64}, {Form::heads, 96}};
  for (const ElementType type : kTypes) {
    for (const std::int64_t k : {std::int64_t{96}, std::int64_t{1024}}) {
      GemmOperands o(type, 37, k, 192, random);
      const Matrix magnitude = o.magnitude();
      for (const Activation activation : kActivations) {
        const Matrix expected = o.expected(activation);
        for (const Kernels* tier : testable_kernels()) {
          for (const ElementType out_type : {ElementType::f32, ElementType::bf16}) {
            GemmArgs args = o.args(*tier);
            args.activation = activation;
            const Form form = forms[random() % std::size(forms)];
            CHECK(excess(run(*tier, o, args, out_type, form), expected, magnitude, o, activation, out_type) <= 1.0);
          }
        }
      }
      for (const Kernels* tier : testable_kernels()) {
        const Matrix rows = run(*tier, o, o.args(*tier), ElementType::bf16);
        for (const Form form : forms) CHECK(same_bits(run(*tier, o, o.args(*tier), ElementType::bf16, form), rows));
      }
    }
  }
}

// Row r is added to row add_rows[r] of a wider matrix; nothing else of it changes.
TEST(gemm_adds_to_rows) {
  Random random(4);
  for (const ElementType type : kTypes) {
    for (const std::int64_t k : {std::int64_t{64}, std::int64_t{1056}}) {
      GemmOperands o(type, 21, k, 64, random);
      const std::int64_t stride = 80, target_rows = 30;
      const Matrix before = random_matrix(target_rows, stride, random), expected = o.expected(Activation::none);
      const Matrix magnitude = o.magnitude();
      std::vector<std::int64_t> add_rows(static_cast<std::size_t>(target_rows));
      std::iota(add_rows.begin(), add_rows.end(), 0);
      std::shuffle(add_rows.begin(), add_rows.end(), random);
      for (const Kernels* tier : testable_kernels()) {
        GuardedBytes target(target_rows * stride * 4);
        const std::vector<std::byte> start = row_major(before, ElementType::f32);
        std::memcpy(target.data(), start.data(), start.size());
        target.expect(0, static_cast<std::int64_t>(start.size()));
        GemmArgs args = o.args(*tier);
        args.add_to = target.floats();
        args.add_rows = add_rows.data();
        args.add_stride = stride;
        {
          const Entered entered(*tier);
          tier->gemm(args);
        }
        CHECK(target.rest_untouched());
        for (std::int64_t i = 0; i < target_rows; ++i) {
          const std::int64_t row = add_rows[static_cast<std::size_t>(i)];
          for (std::int64_t column = 0; column < stride; ++column) {
            const double value = target.floats()[row * stride + column];
            if (i >= o.rows || column >= o.columns) {
              CHECK(value == before(row, column));
            } else {
              const double allowed = 4 * kEps * std::sqrt(static_cast<double>(k) + 16) *
                                     (magnitude(i, column) + std::abs(before(row, column)));
              CHECK_CLOSE(value, before(row, column) + expected(i, column), allowed);
            }
          }
        }
      }
    }
  }
}

// fp32 without scratch for its parts, on tiers that would split it: a caller may leave it out.
TEST(gemm_of_fp32_that_is_not_split) {
  Random random(8);
  for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{45}}) {
    GemmOperands o(ElementType::f32, rows, 416, 64, random);
    const Matrix expected = o.expected(Activation::none), magnitude = o.magnitude();
    for (const Kernels* tier : testable_kernels()) {
      GemmArgs args = o.args(*tier);
      args.split = nullptr;
      const Matrix result = run(*tier, o, args, ElementType::f32);
      CHECK(excess(result, expected, magnitude, o, Activation::none, ElementType::f32) <= 1.0);
    }
  }
}

// Threads split the panels, and a sequence's rows stand wherever there is room: neither may change a bit.
TEST(gemm_does_not_depend_on_how_panels_and_rows_are_split) {
  Random random(5);
  for (const ElementType type : kTypes) {
    for (const std::int64_t k : {std::int64_t{64}, std::int64_t{800}}) {
      GemmOperands o(type, 67, k, 160, random);
      for (const Kernels* tier : testable_kernels()) {
        GemmArgs args = o.args(*tier);
        args.activation = Activation::gelu_erf;
        const Matrix whole = run(*tier, o, args, ElementType::f32);
        for (std::int64_t begin = 0; begin < 5; ++begin) {
          const std::int64_t end = std::min<std::int64_t>(5, begin + 1 + begin % 2);
          args.panel_begin = begin;
          args.panel_end = end;
          const Matrix part = run(*tier, o, args, ElementType::f32);
          for (std::int64_t row = 0; row < o.rows; ++row) {
            CHECK(std::memcmp(&part.values[static_cast<std::size_t>(row * 160 + begin * 32)],
                              &whole.values[static_cast<std::size_t>(row * 160 + begin * 32)],
                              static_cast<std::size_t>(end - begin) * 32 * sizeof(double)) == 0);
          }
        }
        args.panel_begin = args.panel_end = 2;
        run(*tier, o, args, ElementType::f32);
        args.panel_begin = 0;
        args.panel_end = 5;
        for (const std::int64_t pass_rows : {32, 64, 96}) {
          args.pass_rows = pass_rows;
          CHECK(same_bits(run(*tier, o, args, ElementType::f32), whole));
        }
        // The first rows of the same operands, 16 rows at a time further down.
        for (const std::int64_t skipped : {std::int64_t{16}, std::int64_t{32}, std::int64_t{48}}) {
          GemmArgs moved = args;
          moved.a = o.a.data() + activation_offset(type, o.tiles, skipped, 0);
          moved.row_scale = o.row_scale.data() + skipped * o.chunks;
          moved.rows = o.rows - skipped - 2;
          const Matrix part = run(*tier, o, moved, ElementType::f32);
          CHECK(std::memcmp(part.values.data(), &whole.values[static_cast<std::size_t>(skipped * 160)],
                            static_cast<std::size_t>(moved.rows * 160) * sizeof(double)) == 0);
        }
      }
    }
  }
}

// Rows of x hold what a damaged input holds; the other rows must be what they were, bit for bit.
TEST(gemm_shows_nan_and_infinity_in_their_row_only) {
  Random random(6);
  for (const ElementType type : kTypes) {
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      GemmOperands o(type, 37, 832, 64, random);
      std::vector<Matrix> clean;
      for (const Kernels* tier : testable_kernels()) clean.push_back(run(*tier, o, o.args(*tier), ElementType::f32));
      for (const std::int64_t row : {std::int64_t{3}, std::int64_t{36}}) {
        // For u8 quantization turns NaN and infinity into a NaN scale (rows_test.cpp).
        if (type == ElementType::u8)
          o.row_scale[static_cast<std::size_t>(row * o.chunks + o.chunks - 1)].scale = kNan;
        else
          write_element(type, o.a.data() + activation_offset(type, o.tiles, row, 700), bad);
      }
      std::size_t index = 0;
      for (const Kernels* tier : testable_kernels()) {
        for (const Activation activation : kActivations) {
          if (activation != Activation::none && !std::isnan(bad)) continue;  // relu(-inf) is 0
          for (const ElementType out_type : {ElementType::f32, ElementType::bf16}) {
            GemmArgs args = o.args(*tier);
            args.activation = activation;
            const Matrix result = run(*tier, o, args, out_type);
            for (std::int64_t row = 0; row < o.rows; ++row) {
              for (std::int64_t column = 0; column < o.columns; ++column) {
                const double value = result(row, column);
                if (row == 3 || row == 36) {
                  CHECK(std::isnan(bad) ? std::isnan(value) : !std::isfinite(value));
                } else if (activation == Activation::none && out_type == ElementType::f32) {
                  CHECK(value == clean[index](row, column));
                } else {
                  CHECK(std::isfinite(value));
                }
              }
            }
          }
        }
        ++index;
      }
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
