// Plans over random batches: all work is done once, nothing overlaps, and every thread has its place.
#include "encoder/plan.h"

#include <algorithm>
#include <random>

#include "encoder/tuning.h"
#include "tests/check.h"

namespace bert_op::testing {
namespace {

ModelShape bert_base(Precision precision) {
  return {.precision = precision,
          .activation = Activation::gelu_erf,
          .num_layers = 12,
          .hidden_size = 768,
          .num_heads = 12,
          .intermediate_size = 3072,
          .layer_norm_eps = 1e-12f,
          .static_quantization = false};
}

Sequences sequences_of(const std::vector<std::int64_t>& lengths) {
  Sequences sequences;
  std::int64_t first = 0;
  for (const std::int64_t length : lengths) {
    sequences.items.push_back(
        {.first = first, .length = length, .mask = -1, .mask_head_stride = 0, .mask_row_stride = 0});
    first += length;
  }
  sequences.positions.resize(static_cast<std::size_t>(first));
  return sequences;
}

void check_plan(const ModelShape& shape, const std::vector<std::int64_t>& lengths, int threads) {
  const Sequences sequences = sequences_of(lengths);
  const Plan plan = make_plan(shape, sequences, threads);
  CHECK(plan.threads_per_team >= 1);
  // Thread t belongs to team t / threads_per_team: neither a thread nor a team may be left over.
  CHECK(static_cast<int>(plan.teams.size()) * plan.threads_per_team == threads);
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const std::int64_t target = tuning::slice_rows(shape);
  std::int64_t next = 0;
  for (const Team& team : plan.teams) {
    std::int64_t padded = 0, widest = 0, longest_of_team = 0;
    for (const Slice& slice : team.slices) {
      CHECK(slice.begin == next && slice.end > slice.begin);
      CHECK(slice.first == sequences.items[static_cast<std::size_t>(slice.begin)].first);
      std::int64_t rows = 0;
      for (std::int64_t i = slice.begin; i < slice.end; ++i) {
        rows += lengths[static_cast<std::size_t>(i)];
        longest_of_team = std::max(longest_of_team, lengths[static_cast<std::size_t>(i)]);
      }
      CHECK(slice.rows == rows);
      CHECK(slice.rows <= target * 3 / 2 + longest);  // activations stay near the cache's size
      CHECK(slice.padded_row == padded && slice.padded_row % kRowBlock == 0);
      padded += round_up(rows, kRowBlock);
      widest = std::max(widest, round_up(rows, kRowBlock));
      next = slice.end;
    }
    CHECK(team.padded_rows == padded);
    CHECK(team.max_slice_rows == widest);
    CHECK(team.max_sequence == longest_of_team);
  }
  CHECK(next == static_cast<std::int64_t>(lengths.size()));
}

TEST(plan_gives_every_sequence_to_one_team_once) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 1500; ++trial) {
    std::vector<std::int64_t> lengths(1 + random() % (trial % 2 == 0 ? 6 : 200));
    const unsigned longest = trial % 3 == 0 ? 512 : trial % 3 == 1 ? 32 : 1;
    for (std::int64_t& length : lengths) length = 1 + random() % longest;
    check_plan(bert_base(static_cast<Precision>(trial % 4)), lengths, 1 + static_cast<int>(random() % 17));
  }
}

TEST(plan_splits_a_full_batch_into_teams_and_a_single_sequence_over_threads) {
  const ModelShape shape = bert_base(Precision::bf16);
  const Plan full = make_plan(shape, sequences_of(std::vector<std::int64_t>(32, 128)), 4);
  CHECK(full.teams.size() == 4 && full.threads_per_team == 1);
  const Plan single = make_plan(shape, sequences_of({128}), 4);
  CHECK(single.teams.size() == 1 && single.threads_per_team == 4);
}

// Scratch is made for max_pass_rows before the rows of a slice are known.
TEST(no_pass_is_longer_than_the_longest) {
  for (std::int64_t row_bytes = 512; row_bytes <= 64 << 10; row_bytes += 96) {
    const std::int64_t most = tuning::max_pass_rows(512, row_bytes);
    for (std::int64_t rows = 1; rows <= 512; ++rows) CHECK(tuning::pass_rows(rows, row_bytes) <= most);
  }
  CHECK(tuning::max_pass_rows(0, 1024) == kRowBlock);
}

TEST(split_covers_everything_once_and_evenly) {
  for (std::int64_t count = 0; count <= 40; ++count) {
    for (int parts = 1; parts <= 9; ++parts) {
      std::int64_t next = 0;
      for (int part = 0; part < parts; ++part) {
        const Range range = split(count, parts, part);
        CHECK(range.begin == next && range.end >= range.begin);
        CHECK(range.end - range.begin <= ceil_div(count, parts));
        next = range.end;
      }
      CHECK(next == count);
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
