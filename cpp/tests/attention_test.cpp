// Every tier's attention against the reference: sequence lengths, head sizes, masks, and what must not be a number.
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/check.h"
#include "tests/operands.h"
#include "tests/tiers.h"

namespace bert_op::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr ElementType kTypes[] = {ElementType::f32, ElementType::bf16};
enum class MaskKind { none, per_key, full };
constexpr MaskKind kMasks[] = {MaskKind::none, MaskKind::per_key, MaskKind::full};

struct Head {
  Matrix q, k, v, mask;  // mask: empty, one row, or one for each query
  ElementType type;
  float scale;

  Head(ElementType element_type, std::int64_t seq_len, std::int64_t head_size, MaskKind kind, Random& random)
      : q(random_matrix(seq_len, head_size, random, element_type)),
        k(random_matrix(seq_len, head_size, random, element_type)),
        v(random_matrix(seq_len, head_size, random, element_type)), type(element_type),
        scale(1.0f / std::sqrt(static_cast<float>(head_size))) {
    if (kind == MaskKind::none) return;
    mask = random_matrix(kind == MaskKind::full ? seq_len : 1, seq_len, random);
    for (double& value : mask.values) value = random() % 4 == 0 ? -kInfinity : value;
    for (std::int64_t row = 0; row < mask.rows; ++row) mask(row, random() % static_cast<unsigned>(seq_len)) = 0.5;
  }
  std::int64_t seq_len() const { return q.rows; }
  std::int64_t head_size() const { return q.columns; }
};

// Runs query rows [begin, end); the result stands in rows `out_row`.. and from column 32 on of a wider matrix.
Matrix run(const Kernels& tier, const Head& head, ElementType out_type, std::int64_t begin, std::int64_t end,
           bool tile_packed = false) {
  constexpr std::int64_t kOutRow = 5, kOutPanel = 1;
  const std::int64_t seq_len = head.seq_len(), columns = head.head_size() + 64;
  const std::vector<std::byte> q = row_major(head.q, head.type), k = row_major(head.k, head.type),
                               v = row_major(head.v, head.type);
  const std::vector<float> mask = floats_of(head.mask.values);
  GuardedBytes scratch(attention_scratch_bytes(head.type, seq_len, head.head_size()));
  scratch.expect(0, attention_scratch_bytes(head.type, seq_len, head.head_size()));
  GuardedBytes out(round_up(kOutRow + seq_len, kRowBlock) * columns * element_bytes(out_type));
  const std::int64_t tiles = k_tiles(out_type, columns);
  const AttentionArgs args = {
      .type = head.type,
      .q = q.data(),
      .k = k.data(),
      .v = v.data(),
      .seq_len = seq_len,
      .head_size = head.head_size(),
      .scale = head.scale,
      .mask = mask.empty() ? nullptr : mask.data(),
      .mask_row_stride = head.mask.rows > 1 ? seq_len : 0,
      .row_begin = begin,
      .row_end = end,
      .scratch = scratch.data(),
      .out = tile_packed ? store_tiles(out.data(), out_type, tiles) : store_rows(out.data(), out_type, columns),
      .out_row = kOutRow,
      .out_panel = kOutPanel,
      .out_type = out_type};
  {
    const Entered entered(tier);
    tier.attention(args);
  }
  Matrix result(seq_len, head.head_size());
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t i = 0; i < head.head_size(); ++i) {
      const std::int64_t to_row = kOutRow + row, column = kOutPanel * kPanelColumns + i;
      const std::int64_t at = tile_packed ? activation_offset(out_type, tiles, to_row, column)
                                          : (to_row * columns + column) * element_bytes(out_type);
      out.expect(at, element_bytes(out_type));
      result(row, i) = read_element(out_type, out.data() + at);
    }
  }
  CHECK(out.rest_untouched());
  CHECK(scratch.rest_untouched());
  return result;
}

Matrix run(const Kernels& tier, const Head& head) { return run(tier, head, ElementType::f32, 0, head.seq_len()); }

Matrix absolute(Matrix matrix) {
  for (double& value : matrix.values) value = std::abs(value);
  return matrix;
}

// Errors are relative to what is summed: the weighted magnitudes of the values. fp32: the rounding of scores of up to
// `largest`, which the exponential passes on. bf16: weights are rounded to bf16, half a unit each.
void check(const Head& head, const Matrix& result, const Matrix& expected, const Matrix& magnitude, double largest,
           ElementType out_type) {
  const double relative = (head.type == ElementType::bf16 ? 0x1.1p-8 : 0.0) +
                          0x1p-24 * (8.0 * largest + 4.0 * std::sqrt(static_cast<double>(head.seq_len())) + 16.0);
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const double rounding = out_type == ElementType::bf16 ? 0x1p-8 * std::abs(expected.values[i]) : 0.0;
    CHECK_CLOSE(result.values[i], expected.values[i], relative * magnitude.values[i] + rounding + 1e-30);
  }
}

void check_head(const Head& head, double largest_score = 8.0) {
  const Matrix expected = reference::attention(head.q, head.k, head.v, head.scale, head.mask);
  const Matrix magnitude = reference::attention(head.q, head.k, absolute(head.v), head.scale, head.mask);
  for (const Kernels* tier : testable_kernels()) {
    check(head, run(*tier, head), expected, magnitude, largest_score, ElementType::f32);
  }
}

TEST(attention_of_any_length) {
  Random random(1);
  const std::int64_t head_sizes[] = {32, 64, 96, 128};
  for (const ElementType type : kTypes) {
    for (std::int64_t seq_len = 1; seq_len <= 130; ++seq_len) {
      check_head(Head(type, seq_len, head_sizes[seq_len % 4], kMasks[seq_len % 3], random));
    }
  }
}

TEST(attention_of_any_head_size_and_mask) {
  Random random(2);
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_size : {32, 64, 96, 128}) {
      for (const MaskKind mask : kMasks) check_head(Head(type, 43, head_size, mask, random));
      check_head(Head(type, 300, head_size, kMasks[head_size / 32 % 3], random));
    }
  }
}

TEST(attention_writes_every_form_of_output) {
  Random random(3);
  for (const ElementType type : kTypes) {
    const Head head(type, 45, 64, MaskKind::per_key, random);
    const Matrix expected = reference::attention(head.q, head.k, head.v, head.scale, head.mask);
    const Matrix magnitude = reference::attention(head.q, head.k, absolute(head.v), head.scale, head.mask);
    for (const Kernels* tier : testable_kernels()) {
      for (const ElementType out_type : {ElementType::f32, ElementType::bf16}) {
        for (const bool tile_packed : {false, true}) {
          check(head, run(*tier, head, out_type, 0, 45, tile_packed), expected, magnitude, 8.0, out_type);
        }
      }
    }
  }
}

TEST(attention_does_not_depend_on_how_rows_are_split) {
  Random random(4);
  for (const ElementType type : kTypes) {
    const Head head(type, 77, 64, MaskKind::full, random);
    for (const Kernels* tier : testable_kernels()) {
      const Matrix whole = run(*tier, head);
      for (const auto& [begin, end] : {std::pair{0, 1}, {1, 34}, {5, 77}, {76, 77}, {33, 33}, {16, 50}}) {
        const Matrix part = run(*tier, head, ElementType::f32, begin, end);
        const auto at = static_cast<std::size_t>(begin * 64), count = static_cast<std::size_t>((end - begin) * 64);
        CHECK(std::memcmp(part.values.data() + at, whole.values.data() + at, count * sizeof(double)) == 0);
      }
    }
  }
}

// Scores of thousands: the largest wins, nothing overflows.
TEST(attention_with_large_scores) {
  Random random(5);
  for (const ElementType type : kTypes) {
    Head head(type, 40, 64, MaskKind::none, random);
    for (double& value : head.q.values) value *= 1024.0;
    for (const Kernels* tier : testable_kernels()) {
      for (const double value : run(*tier, head).values) CHECK(std::isfinite(value));
    }
    for (double& value : head.q.values) value /= 64.0;
    check_head(head, 8.0 * 16.0);
  }
}

TEST(attention_of_a_row_without_keys_is_zero) {
  Random random(6);
  for (const ElementType type : kTypes) {
    Head full(type, 39, 64, MaskKind::full, random), per_key(type, 39, 64, MaskKind::per_key, random);
    for (const std::int64_t row : {0, 17, 38}) {
      for (std::int64_t key = 0; key < 39; ++key) full.mask(row, key) = -kInfinity;
    }
    for (double& value : per_key.mask.values) value = -kInfinity;
    check_head(full);
    for (const Kernels* tier : testable_kernels()) {
      for (std::int64_t i = 0; i < 64; ++i) CHECK(run(*tier, full)(17, i) == 0.0);
      for (const double value : run(*tier, per_key).values) CHECK(value == 0.0);
    }
  }
}

TEST(attention_shows_nan_and_infinity) {
  Random random(7);
  for (const ElementType type : kTypes) {
    const auto rows_with_nan = [](const Kernels& tier, const Head& head) {
      const Matrix result = run(tier, head);
      std::vector<std::int64_t> rows;
      for (std::int64_t row = 0; row < result.rows; ++row) {
        int count = 0;
        for (std::int64_t i = 0; i < result.columns; ++i) count += std::isnan(result(row, i)) ? 1 : 0;
        CHECK(count == 0 || count == result.columns);
        if (count > 0) rows.push_back(row);
      }
      return rows;
    };
    for (const std::int64_t seq_len : {5, 35}) {
      for (const MaskKind kind : kMasks) {
        const Head clean(type, seq_len, 32, kind, random);
        const std::int64_t last = seq_len - 1;
        for (const Kernels* tier : testable_kernels()) {
          CHECK(rows_with_nan(*tier, clean).empty());
          Head bad = clean;
          bad.q(last, 3) = kNan;
          CHECK(rows_with_nan(*tier, bad) == std::vector<std::int64_t>{last});
          bad = clean;
          for (std::int64_t i = 0; i < 32; ++i) bad.q(2, i) = kNan;
          CHECK(rows_with_nan(*tier, bad) == std::vector<std::int64_t>{2});
          bad = clean;
          bad.k(last, 3) = kNan;
          CHECK(rows_with_nan(*tier, bad).size() == static_cast<std::size_t>(seq_len));
          if (kind == MaskKind::none) {
            bad = clean;
            bad.k(1, 3) = kInfinity;  // some scores +inf (NaN after the shift), others -inf (weight 0)
            CHECK(!rows_with_nan(*tier, bad).empty());
            bad = clean;
            for (std::int64_t i = 0; i < 32; ++i) bad.v(1, i) = kNan;
            CHECK(rows_with_nan(*tier, bad).size() == static_cast<std::size_t>(seq_len));
          } else {
            bad = clean;
            bad.mask(0, last) = kNan;
            CHECK(rows_with_nan(*tier, bad).size() ==
                  (kind == MaskKind::full ? 1u : static_cast<std::size_t>(seq_len)));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
