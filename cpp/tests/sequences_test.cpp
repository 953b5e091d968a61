// Which positions find_sequences keeps, and the mask it leaves for them.
#include "encoder/sequences.h"

#include <limits>
#include <random>

#include "tests/check.h"

namespace bert_op::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Positions = std::vector<std::int64_t>;

Sequences found(std::int64_t batch, std::int64_t seq_len, const std::vector<float>& values, bool skip_padding) {
  return find_sequences(batch, seq_len, 2, {values.data(), seq_len, 0, 0}, skip_padding);
}

TEST(sequences_without_a_mask_are_whole) {
  for (const bool skip_padding : {false, true}) {
    const Sequences all = find_sequences(2, 3, 4, {}, skip_padding);
    CHECK(all.positions == (Positions{0, 1, 2, 3, 4, 5}));
    CHECK(all.items.size() == 2 && all.masks.empty());
    CHECK(all.items[1].first == 3 && all.items[1].length == 3 && all.items[1].mask == -1);
  }
}

TEST(sequences_skip_padding_on_either_side_and_holes) {
  const float x = -kInfinity;
  const std::vector<float> values = {0, 0, 0, x, x,  //
                                     x, x, 0, 0, 0,  //
                                     0, x, 0, x, 0,  //
                                     x, x, x, x, x,  //
                                     0, 0, 0, 0, 0};
  const Sequences skipped = found(5, 5, values, true);
  CHECK(skipped.positions == (Positions{0, 1, 2, 7, 8, 9, 10, 12, 14, 20, 21, 22, 23, 24}));
  CHECK(skipped.items.size() == 4);  // nobody attends anything in the fourth
  for (const Sequence& sequence : skipped.items) CHECK(sequence.mask == -1);
  const Sequences all = found(5, 5, values, false);
  CHECK(all.positions.size() == 25 && all.items.size() == 5);
  CHECK(all.items[3].mask >= 0 && all.items[4].mask == -1);
}

TEST(sequences_keep_what_counts_as_attended) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values = {0.0f, -999.0f, -1000.0f, -10000.0f, -3.4e38f, nan, 5.0f};
  const Sequences kept = found(1, 7, values, true);
  CHECK(kept.positions == (Positions{0, 1, 5, 6}));
  CHECK(kept.items[0].mask == 0 && kept.masks.size() == 4);
  CHECK(kept.masks[1] == -999.0f && kept.masks[2] != kept.masks[2] && kept.masks[3] == 5.0f);
}

// One query of one head is enough for a key to be kept.
TEST(sequences_keep_keys_that_a_single_query_attends) {
  std::vector<float> values(2 * 4 * 4, -kInfinity);
  values[(1 * 4 + 3) * 4 + 2] = 0.0f;
  const Sequences kept = find_sequences(1, 4, 2, {values.data(), 32, 16, 4}, true);
  CHECK(kept.positions == (Positions{2}));
  CHECK(kept.items[0].length == 1);
}

TEST(sequences_of_nothing) {
  CHECK(find_sequences(0, 7, 2, {}, true).items.empty());
  CHECK(find_sequences(3, 0, 2, {}, true).items.empty());
}

// Any form of mask: every kept (head, query, key) finds the value it had, every attended key is kept, and all others are
// kept exactly when padding is not skipped.
TEST(sequences_preserve_masks_of_any_form) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 600; ++trial) {
    const std::int64_t batch = 1 + random() % 4, seq_len = 1 + random() % 9, heads = 1 + random() % 3;
    const bool per_batch = random() % 2, per_head = random() % 2, per_row = random() % 2, skip_padding = random() % 2;
    const std::int64_t rows = per_row ? seq_len : 1, planes = per_head ? heads : 1;
    std::vector<float> values(static_cast<std::size_t>((per_batch ? batch : 1) * planes * rows * seq_len));
    const float choices[] = {0.0f, -kInfinity, -kInfinity, -1.5f, -5000.0f};
    const std::size_t kinds = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 3 : 5;
    for (float& value : values) value = choices[random() % kinds];
    const Mask mask{values.data(), per_batch ? planes * rows * seq_len : 0, per_head ? rows * seq_len : 0,
                    per_row ? seq_len : 0};
    const auto at = [&](std::int64_t b, std::int64_t head, std::int64_t query, std::int64_t key) {
      return values[static_cast<std::size_t>(b * mask.batch_stride + head * mask.head_stride + query * mask.row_stride +
                                             key)];
    };
    const Sequences kept = find_sequences(batch, seq_len, heads, mask, skip_padding);
    Positions expected;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t key = 0; key < seq_len; ++key) {
        bool attended = false;
        for (std::int64_t head = 0; head < heads; ++head) {
          for (std::int64_t query = 0; query < seq_len; ++query) attended |= at(b, head, query, key) > -1000.0f;
        }
        if (attended || !skip_padding) expected.push_back(b * seq_len + key);
      }
    }
    CHECK(kept.positions == expected);
    std::int64_t next = 0;
    for (const Sequence& sequence : kept.items) {
      CHECK(sequence.first == next && sequence.length > 0);
      next += sequence.length;
      const std::int64_t* positions = kept.positions.data() + sequence.first;
      const std::int64_t b = positions[0] / seq_len;
      for (std::int64_t i = 0; i < sequence.length; ++i) CHECK(positions[i] / seq_len == b);
      for (std::int64_t head = 0; head < heads; ++head) {
        for (std::int64_t i = 0; i < sequence.length; ++i) {
          for (std::int64_t j = 0; j < sequence.length; ++j) {
            const std::int64_t index =
                sequence.mask + head * sequence.mask_head_stride + i * sequence.mask_row_stride + j;
            const float value = sequence.mask < 0 ? 0.0f : kept.masks[static_cast<std::size_t>(index)];
            CHECK(value == at(b, head, positions[i] % seq_len, positions[j] % seq_len));
          }
        }
      }
    }
    CHECK(next == static_cast<std::int64_t>(kept.positions.size()));
  }
}

}  // namespace
}  // namespace bert_op::testing
