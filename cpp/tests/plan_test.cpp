// Plans over random batches: all work is done once, nothing overlaps, and every thread has its place.
#include "encoder/plan.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "encoder/tuning.h"
#include "tests/check.h"
#include "tests/models.h"

namespace bert_op::testing {
namespace {

// Some machine's.
constexpr Isa kIsa = Isa::avx512_vnni;

std::int64_t sum_of(const std::vector<std::int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

void check_plan(const ModelShape& shape, const std::vector<std::int64_t>& lengths, int threads) {
  const Plan plan = make_plan(shape, kIsa, lengths, threads);
  CHECK(plan.threads() >= 1 && plan.threads() <= threads);
  std::vector<std::int64_t> sorted = plan.order;
  std::sort(sorted.begin(), sorted.end());
  CHECK(sorted.size() == lengths.size());
  for (std::size_t i = 0; i < sorted.size(); ++i) CHECK(sorted[i] == static_cast<std::int64_t>(i));
  const auto length_at = [&](std::int64_t place) {
    return lengths[static_cast<std::size_t>(plan.order[static_cast<std::size_t>(place)])];
  };
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const std::int64_t target = tuning::slice_rows(shape);
  std::int64_t next = 0, first = 0;
  for (const Team& team : plan.teams) {
    CHECK(team.members >= 1);
    std::int64_t padded = 0, widest = 0, longest_of_team = 0;
    for (const Slice& slice : team.slices) {
      CHECK(slice.begin == next && slice.end > slice.begin);
      CHECK(slice.first == first);
      std::int64_t rows = 0;
      for (std::int64_t i = slice.begin; i < slice.end; ++i) {
        rows += length_at(i);
        longest_of_team = std::max(longest_of_team, length_at(i));
      }
      CHECK(slice.rows == rows);
      CHECK(slice.rows <= target * 3 / 2 + longest);  // activations stay near the cache's size
      CHECK(slice.padded_row == padded && slice.padded_row % kRowBlock == 0);
      padded += round_up(rows, kRowBlock);
      widest = std::max(widest, round_up(rows, kRowBlock));
      next = slice.end;
      first += rows;
    }
    CHECK(team.padded_rows == padded);
    CHECK(team.max_slice_rows == widest);
    CHECK(team.max_sequence == longest_of_team);
  }
  CHECK(next == static_cast<std::int64_t>(lengths.size()));
  CHECK(first == sum_of(lengths));
}

TEST(plan_gives_every_sequence_to_one_team_once) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 600; ++trial) {
    std::vector<std::int64_t> lengths(1 + random() % (trial % 2 == 0 ? 6 : 200));
    const unsigned longest = trial % 3 == 0 ? 512 : trial % 3 == 1 ? 32 : 1;
    for (std::int64_t& length : lengths) length = 1 + random() % longest;
    check_plan(bert_base(static_cast<Precision>(trial % 4)), lengths,
               1 + static_cast<int>(random() % (trial % 5 == 0 ? 70 : 9)));
  }
}

TEST(plan_splits_a_full_batch_into_teams_and_a_single_sequence_over_threads) {
  const ModelShape shape = bert_base(Precision::bf16);
  const Plan full = make_plan(shape, kIsa, std::vector<std::int64_t>(32, 128), 4);
  CHECK(full.teams.size() == 4 && full.threads() == 4);
  CHECK(std::is_sorted(full.order.begin(), full.order.end()));
  const Plan single = make_plan(shape, kIsa, {128}, 4);
  CHECK(single.teams.size() == 1 && single.teams[0].members == 4);
}

std::vector<std::int64_t> mixed_lengths() {
  std::mt19937 random(3);
  std::vector<std::int64_t> lengths(32);
  for (std::int64_t& length : lengths) length = 12 + static_cast<std::int64_t>(random() % 117);
  return lengths;
}

TEST(more_threads_never_take_longer) {
  std::vector<std::int64_t> one_long(32, 24);
  one_long[0] = 512;
  const std::vector<std::vector<std::int64_t>> batches = {{16},  {128},           {128, 128, 128, 128},
                                                          {512}, mixed_lengths(), one_long};
  for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::bf16_qint8}) {
    const ModelShape shape = bert_base(precision);
    for (const std::vector<std::int64_t>& lengths : batches) {
      double before = 0.0;
      for (const int threads : {1, 2, 4, 8, 16, 32, 64, 128}) {
        const Plan plan = make_plan(shape, kIsa, lengths, threads);
        const Replay played = replay(shape, rates_of(kIsa, precision), lengths, plan);
        CHECK(played.efficiency > 0.0 && played.efficiency <= 1.0);
        CHECK(before == 0.0 || played.microseconds <= 1.02 * before);
        before = played.microseconds;
      }
    }
  }
}

TEST(mixed_lengths_are_shared_out_evenly) {
  const ModelShape shape = bert_base(Precision::bf16_qint8);
  const std::vector<std::int64_t> lengths = mixed_lengths();
  for (const int threads : {2, 4, 8, 16}) {
    const Plan plan = make_plan(shape, kIsa, lengths, threads);
    CHECK(plan.threads() == threads && plan.teams.size() > 1);
    CHECK(replay(shape, rates_of(kIsa, shape.precision), lengths, plan).efficiency > 0.9);
  }
}

TEST(short_calls_take_as_many_threads_as_pay) {
  ModelShape shape = bert_base(Precision::bf16_qint8);
  shape.hidden_size = 384;
  shape.intermediate_size = 1536;
  shape.num_layers = 6;
  const Plan plan = make_plan(shape, kIsa, {16}, 128);
  CHECK(plan.threads() > 1 && plan.threads() < 64);
}

TEST(arranged_sequences_keep_their_positions) {
  Sequences sequences;
  for (const std::int64_t length : {2, 3, 1}) {
    const auto first = static_cast<std::int64_t>(sequences.positions.size());
    sequences.items.push_back(
        {.first = first, .length = length, .mask = first, .mask_head_stride = 0, .mask_row_stride = 0});
    for (std::int64_t i = 0; i < length; ++i) sequences.positions.push_back(10 * length + i);
  }
  const Sequences same = arranged(sequences, {0, 1, 2});
  CHECK(same.positions == sequences.positions);
  const Sequences turned = arranged(sequences, {2, 0, 1});
  CHECK((turned.positions == std::vector<std::int64_t>{10, 20, 21, 30, 31, 32}));
  CHECK(turned.items[1].first == 1 && turned.items[1].length == 2 && turned.items[1].mask == 0);
}

// Scratch is made for max_pass_rows before the rows of a slice are known.
TEST(no_pass_is_longer_than_the_longest) {
  for (std::int64_t row_bytes = 512; row_bytes <= 64 << 10; row_bytes += 96) {
    const std::int64_t most = tuning::max_pass_rows(512, row_bytes);
    for (std::int64_t rows = 1; rows <= 512; ++rows) CHECK(tuning::pass_rows(rows, row_bytes) <= most);
  }
  CHECK(tuning::max_pass_rows(0, 1024) == kRowBlock);
}

}  // namespace
}  // namespace bert_op::testing
