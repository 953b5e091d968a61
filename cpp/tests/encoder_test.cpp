// The whole encoder: against the reference, and what must not depend on threads, batches, padding or other callers.
#include "encoder/encoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "encoder/threads.h"
#include "tests/check.h"
#include "tests/models.h"

namespace bert_op::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Precision kPrecisions[] = {Precision::fp32, Precision::fp32_qint8, Precision::bf16, Precision::bf16_qint8};

// Root of the mean square error of rows whose values are about 1.
double error_of(const std::vector<float>& result, const Matrix& expected) {
  double sum = 0.0;
  for (std::size_t i = 0; i < result.size(); ++i) sum += std::pow(result[i] - expected.values[i], 2.0);
  return std::sqrt(sum / static_cast<double>(result.size()));
}

// What two layers may lose: fp32 rounding, 8 bits of bf16, 255 levels a row.
double allowed_error(Precision precision) {
  switch (precision) {
    case Precision::fp32: return 1e-6;
    case Precision::fp32_qint8: return 2e-2;
    case Precision::bf16: return 1e-2;
    case Precision::bf16_qint8: return 2.5e-2;
  }
  return 0.0;
}

Matrix expected_of(const TestModel& model, const Batch& batch, std::int64_t b, const std::vector<Matrix>& masks) {
  const std::int64_t hidden = model.shape.hidden_size;
  Matrix x(batch.seq_len, hidden);
  std::copy_n(batch.hidden_states.begin() + b * batch.seq_len * hidden, batch.seq_len * hidden, x.values.begin());
  return reference::encoder(model.shape, model.layers, x, masks);
}

void check_against_reference(const ModelShape& shape, std::int64_t seq_len, Random& random) {
  const TestModel model(shape, random);
  const Batch batch(shape, 2, seq_len, random);
  const Matrix expected[] = {expected_of(model, batch, 0, {}), expected_of(model, batch, 1, {})};
  for (const Isa isa : available_isas()) {
    const std::vector<float> result = run(model, batch, {isa, 2});
    for (std::int64_t b = 0; b < 2; ++b) {
      CHECK_CLOSE(error_of(rows_of(result, shape, b * seq_len, (b + 1) * seq_len), expected[b]), 0.0,
                  allowed_error(shape.precision));
    }
  }
}

TEST(encoder_matches_the_reference) {
  Random random(1);
  for (const Precision precision : kPrecisions) {
    for (const Activation activation : {Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
      check_against_reference(small_shape(precision, activation), 19, random);
    }
    ModelShape wide = small_shape(precision);  // head size 128; an intermediate size that takes several chunks of K
    wide.hidden_size = 128;
    wide.num_heads = 1;
    wide.intermediate_size = 1088;
    wide.layer_norm_eps = 0.5f;
    check_against_reference(wide, 33, random);
  }
}

// Any of the four linear layers of each layer may be left in the precision that the others are quantized from.
TEST(encoder_with_single_linear_layers_kept_unquantized) {
  Random random(17);
  for (const Precision precision : {Precision::fp32_qint8, Precision::bf16_qint8}) {
    for (int kept = 1; kept < 16; ++kept) {
      ModelShape shape = small_shape(precision);
      shape.intermediate_size = kept % 2 == 0 ? shape.intermediate_size : 1088;
      shape.kept = static_cast<std::uint8_t>(kept);
      check_against_reference(shape, 19, random);
    }
  }
}

// Nothing is quantized where all are kept: the same bits as in the precision they are kept in.
TEST(encoder_with_all_linear_layers_kept_is_the_unquantized_one) {
  for (const auto& [quantized, plain] :
       {std::pair(Precision::fp32_qint8, Precision::fp32), std::pair(Precision::bf16_qint8, Precision::bf16)}) {
    std::vector<std::vector<float>> results;
    for (const Precision precision : {quantized, plain}) {
      Random random(18);
      ModelShape shape = small_shape(precision);
      shape.kept = precision == quantized ? 15 : 0;
      const TestModel model(shape, random);
      const Batch batch(shape, 2, 19, random);
      results.push_back(run(model, batch, {Isa::portable, 2}));
    }
    CHECK(same_bits(results[0], results[1]));
  }
}

// Masks of every form: of all heads or each, of all queries or each, of all sequences or each.
TEST(encoder_applies_masks_of_every_form) {
  Random random(2);
  constexpr std::int64_t kSeqLen = 21, kBatch = 2;
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const ModelShape shape = small_shape(precision);
    const TestModel model(shape, random);
    for (int form = 0; form < 8; ++form) {
      const std::int64_t batches = form & 1 ? kBatch : 1, heads = form & 2 ? shape.num_heads : 1,
                         rows = form & 4 ? kSeqLen : 1;
      Batch batch(shape, kBatch, kSeqLen, random);
      batch.mask_values = floats_of(random_matrix(batches * heads * rows, kSeqLen, random).values);
      for (float& value : batch.mask_values) value = random() % 3 == 0 ? -kInfinity : value;
      batch.mask = {batch.mask_values.data(), batches > 1 ? heads * rows * kSeqLen : 0, heads > 1 ? rows * kSeqLen : 0,
                    rows > 1 ? kSeqLen : 0};
      for (const Isa isa : available_isas()) {
        const std::vector<float> result = run(model, batch, {isa, 2});
        for (std::int64_t b = 0; b < kBatch; ++b) {
          std::vector<Matrix> masks(static_cast<std::size_t>(heads), Matrix(rows, kSeqLen));
          for (std::int64_t head = 0; head < heads; ++head) {
            const auto from = batch.mask_values.begin() + b * batch.mask.batch_stride + head * batch.mask.head_stride;
            std::copy_n(from, rows * kSeqLen, masks[static_cast<std::size_t>(head)].values.begin());
          }
          CHECK_CLOSE(
              error_of(rows_of(result, shape, b * kSeqLen, (b + 1) * kSeqLen), expected_of(model, batch, b, masks)),
              0.0, allowed_error(precision));
        }
      }
    }
  }
}

TEST(encoder_does_not_depend_on_threads) {
  Random random(3);
  for (const Precision precision : kPrecisions) {
    const TestModel model(small_shape(precision), random);
    Batch batch(model.shape, 3, 40, random);
    batch.mask_padding({40, 7, 23});
    for (const Isa isa : available_isas()) {
      for (const bool skip_padding : {false, true}) {
        const std::vector<float> one = run(model, batch, {isa, 1, skip_padding});
        for (const int threads : {2, 3, 4, 7}) CHECK(same_bits(run(model, batch, {isa, threads, skip_padding}), one));
      }
    }
  }
}

// Three chunks of the intermediate, the last one shorter: teams of one and three share them, others share rows.
TEST(encoder_shares_a_wide_intermediate_among_any_number_of_threads) {
  Random random(9);
  for (const Precision precision : kPrecisions) {
    ModelShape shape = small_shape(precision);
    shape.intermediate_size = 1056;
    const TestModel model(shape, random);
    const Batch batch(shape, 1, 40, random);
    const Matrix expected = expected_of(model, batch, 0, {});
    for (const Isa isa : available_isas()) {
      const std::vector<float> one = run(model, batch, {isa, 1});
      CHECK_CLOSE(error_of(one, expected), 0.0, allowed_error(precision));
      for (const int threads : {2, 3, 4, 6}) CHECK(same_bits(run(model, batch, {isa, threads}), one));
    }
  }
}

// Many more threads than cores, in teams of any size: rows, panels, chunks and heads are cut in every way there is.
TEST(encoder_on_up_to_sixty_four_threads) {
  Random random(31);
  Isa isa = Isa::portable;
  for (const Isa known : available_isas())
    isa = known < Isa::amx ? known : isa;  // AMX may be emulated, instruction by instruction
  for (const Precision precision : kPrecisions) {
    ModelShape shape = small_shape(precision);
    shape.hidden_size = 384;
    shape.num_heads = 6;
    shape.intermediate_size = 1536;
    const TestModel model(shape, random);
    for (int trial = 0; trial < 12; ++trial) {
      const auto count = 1 + static_cast<std::int64_t>(random() % 5);
      const auto longest = 1 + static_cast<std::int64_t>(random() % (trial % 3 == 0 ? 300 : 40));
      Batch batch(shape, count, longest, random);
      std::vector<std::int64_t> lengths;
      for (std::int64_t b = 0; b < count; ++b)
        lengths.push_back(1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(longest)));
      batch.mask_padding(lengths);
      const bool skip_padding = trial % 2 == 0;
      const std::vector<float> one = run(model, batch, {isa, 1, skip_padding});
      for (const int threads : {2, 3, 5, 8, 16, 33, 64})
        CHECK(same_bits(run(model, batch, {isa, threads, skip_padding}), one));
    }
  }
}

// Enough rows for several slices in a team: each sequence gets what it gets alone.
TEST(encoder_does_not_depend_on_the_rest_of_the_batch) {
  Random random(4);
  for (const Precision precision : kPrecisions) {
    ModelShape shape = small_shape(precision);
    shape.num_layers = 1;
    const TestModel model(shape, random);
    constexpr std::int64_t kBatch = 48, kSeqLen = 25;
    std::vector<std::int64_t> lengths;
    for (std::int64_t b = 0; b < kBatch; ++b) lengths.push_back(1 + static_cast<std::int64_t>(random() % kSeqLen));
    Batch batch(shape, kBatch, kSeqLen, random);
    batch.mask_padding(lengths);
    for (const Isa isa : available_isas()) {
      const std::vector<float> padded = run(model, batch, {isa, 2, false}), skipped = run(model, batch, {isa, 2, true});
      for (std::int64_t b = 0; b < kBatch; b += isa == Isa::amx ? 7 : 1) {
        const std::int64_t length = lengths[static_cast<std::size_t>(b)], first = b * kSeqLen;
        Batch alone(shape, 1, kSeqLen, random);
        alone.hidden_states = rows_of(batch.hidden_states, shape, first, first + kSeqLen);
        alone.mask_padding({length});
        CHECK(same_bits(run(model, alone, {isa}), rows_of(padded, shape, first, first + kSeqLen)));
        // Without padding: what stands there is neither read nor computed.
        Batch shorter(shape, 1, length, random);
        shorter.hidden_states = rows_of(batch.hidden_states, shape, first, first + length);
        CHECK(same_bits(run(model, shorter, {isa}), rows_of(skipped, shape, first, first + length)));
        for (const float value : rows_of(skipped, shape, first + length, first + kSeqLen)) CHECK(value == 0.0f);
      }
    }
  }
}

TEST(encoder_without_anything_to_attend) {
  Random random(5);
  for (const Precision precision : kPrecisions) {
    const TestModel model(small_shape(precision), random);
    Batch batch(model.shape, 2, 9, random);
    batch.mask_padding({0, 0});
    const Matrix none(1, 9);
    for (const Isa isa : available_isas()) {
      for (const float value : run(model, batch, {isa, 2, true})) CHECK(value == 0.0f);
      for (const float value : run(model, batch, {isa, 2, false})) CHECK(std::isfinite(value));
    }
  }
}

// A damaged sequence shows it in every row, since all attend to it; the others do not notice.
TEST(encoder_shows_nan_and_infinity_in_their_sequence_only) {
  Random random(6);
  for (const Precision precision : kPrecisions) {
    const TestModel model(small_shape(precision), random);
    const std::int64_t hidden = model.shape.hidden_size;
    Batch batch(model.shape, 3, 20, random);
    batch.mask_padding({20, 20, 12});
    for (const Isa isa : available_isas()) {
      const std::vector<float> clean = run(model, batch, {isa, 2});
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
        float& value = batch.hidden_states[static_cast<std::size_t>((20 + 5) * hidden + 17)];
        const float before = value;
        value = bad;
        const std::vector<float> result = run(model, batch, {isa, 2});
        value = before;
        for (const float y : rows_of(result, model.shape, 20, 40)) CHECK(std::isnan(y));
        CHECK(same_bits(rows_of(result, model.shape, 0, 20), rows_of(clean, model.shape, 0, 20)));
        CHECK(same_bits(rows_of(result, model.shape, 40, 60), rows_of(clean, model.shape, 40, 60)));
      }
    }
  }
}

TEST(encoder_uses_static_ranges) {
  Random random(7);
  for (const Precision precision : {Precision::fp32_qint8, Precision::bf16_qint8}) {
    ModelShape shape = small_shape(precision);
    shape.static_quantization = true;
    std::vector<float> fitting, narrow;
    for (int layer = 0; layer < 2; ++layer) {
      fitting.insert(fitting.end(), {-4.5f, 4.5f, -3.0f, 3.0f, -4.5f, 4.5f, -0.2f, 4.0f});
      narrow.insert(narrow.end(), {-0.5f, 0.5f, -0.5f, 0.5f, -0.5f, 0.5f, -0.2f, 0.5f});
    }
    const Random same_weights(8);
    Random first = same_weights, second = same_weights;
    const TestModel model(shape, first, fitting), clipped(shape, second, narrow);
    const Batch batch(shape, 1, 20, random);
    const Matrix expected = expected_of(model, batch, 0, {});
    for (const Isa isa : available_isas()) {
      CHECK_CLOSE(error_of(run(model, batch, {isa, 2}), expected), 0.0, 4e-2);
      CHECK(error_of(run(clipped, batch, {isa, 2}), expected) > 0.1);
    }
  }
}

TEST(encoder_serves_several_callers_at_once) {
  Random random(9);
  for (const Precision precision : kPrecisions) {
    const TestModel model(small_shape(precision), random);
    for (const Isa isa : available_isas()) {
      constexpr std::size_t kCallers = 4;
      std::vector<std::unique_ptr<Batch>> batches;
      std::vector<std::vector<float>> alone;
      for (std::size_t caller = 0; caller < kCallers; ++caller) {
        const auto n = static_cast<std::int64_t>(caller);
        batches.push_back(std::make_unique<Batch>(model.shape, 1 + n % 3, 10 + 9 * n, random));
        alone.push_back(run(model, *batches.back(), {isa}));
      }
      std::vector<std::thread> callers;
      for (std::size_t caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back([&, caller] {
          for (int call = 0; call < 3; ++call) {
            const int threads = 1 + (static_cast<int>(caller) + call) % 2;
            CHECK(same_bits(run(model, *batches[caller], {isa, threads}), alone[caller]));
          }
        });
      }
      for (std::thread& caller : callers) caller.join();
    }
  }
}

// In someone else's parallel region OpenMP gives one thread where more are asked for.
TEST(encoder_works_with_fewer_threads_than_asked_for) {
  Random random(10);
  const TestModel model(small_shape(Precision::bf16), random);
  const Batch batch(model.shape, 2, 17, random);
  Isa isa = Isa::portable;
  for (const Isa known : available_isas())
    isa = known < Isa::amx ? known : isa;  // AMX may be emulated, instruction by instruction
  const std::vector<float> expected = run(model, batch, {isa});
  run_parallel(2, [&](int, int) { CHECK(same_bits(run(model, batch, {isa, 2}), expected)); });
}

TEST(encoder_leaves_input_and_model_alone) {
  Random random(11);
  for (const Precision precision : kPrecisions) {
    const TestModel model(small_shape(precision), random);
    Batch batch(model.shape, 2, 30, random);
    batch.mask_padding({30, 11});
    const std::vector<std::byte> arena(model.arena(), model.arena() + model.arena_bytes());
    const std::vector<float> hidden_states = batch.hidden_states, mask = batch.mask_values;
    for (const Isa isa : available_isas()) run(model, batch, {isa, 3});
    CHECK(std::equal(arena.begin(), arena.end(), model.arena()));
    CHECK(same_bits(hidden_states, batch.hidden_states));
    CHECK(same_bits(mask, batch.mask_values));
  }
}

}  // namespace
}  // namespace bert_op::testing
