// Shares of a team: together they are everything, once, whatever the sizes.
#include "encoder/split.h"

#include <algorithm>
#include <random>

#include "tests/check.h"

namespace bert_op::testing {
namespace {

ModelShape bert(std::int64_t hidden, Precision precision) {
  return {.precision = precision,
          .activation = Activation::gelu_erf,
          .num_layers = 12,
          .hidden_size = hidden,
          .num_heads = hidden / 64,
          .intermediate_size = 4 * hidden,
          .layer_norm_eps = 1e-12f,
          .static_quantization = false};
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
      CHECK(split(count, parts, parts).size() == 0);
    }
  }
}

void check_grid(const Grid& grid, std::int64_t rows, std::int64_t columns, std::int64_t row_block, int members) {
  CHECK(grid.row_parts >= 1 && grid.column_parts >= 1 && grid.row_parts * grid.column_parts <= members);
  std::vector<int> done(static_cast<std::size_t>(rows * columns));
  for (int member = 0; member < members; ++member) {
    const Part part = part_of(grid, rows, columns, row_block, member);
    CHECK(part.rows.begin % row_block == 0 || part.rows.begin == rows);
    for (std::int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      for (std::int64_t column = part.columns.begin; column < part.columns.end; ++column)
        ++done[static_cast<std::size_t>(row * columns + column)];
    }
  }
  CHECK(std::all_of(done.begin(), done.end(), [](int times) { return times == 1; }));
}

TEST(parts_of_a_layer_are_all_of_it_once) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const ModelShape shape = bert(trial % 2 == 0 ? 384 : 768, static_cast<Precision>(trial % 4));
    std::vector<std::int64_t> lengths(1 + random() % 6);
    for (std::int64_t& length : lengths) length = 1 + static_cast<std::int64_t>(random() % 200);
    std::int64_t rows = 0;
    for (const std::int64_t length : lengths) rows += length;
    const int members = 1 + static_cast<int>(random() % 70);
    const std::int64_t row_block = trial % 3 == 0 ? 32 : 16, panels = shape.hidden_size / kPanelColumns;
    const LayerSplit chosen = split_layer(shape, lengths, row_block, members);
    check_grid(chosen.qkv, rows, 3 * panels, row_block, members);
    check_grid(chosen.attention_output, rows, panels, row_block, members);
    check_grid(chosen.output, rows, panels, row_block, members);
    const std::int64_t tiles = k_tiles(ElementType::u8, shape.intermediate_size);
    check_grid(chosen.intermediate, rows, chosen.by_chunks ? chunk_count(ElementType::u8, tiles) : 4 * panels,
               row_block, members);
    CHECK(!chosen.by_chunks || shape.type_of(LinearKind::output) == ElementType::u8);
    CHECK(chosen.query_rows >= 1 && chosen.query_rows % row_block == 0);
    std::int64_t next = 0;
    for (int member = 0; member < members; ++member) {
      const Range own = own_rows(rows, members, member);
      CHECK(own.begin == next);
      next = own.end;
    }
    CHECK(next == rows);
  }
}

TEST(panels_are_cut_first_and_rows_where_there_are_too_few_of_them) {
  const Grid two = best_grid(128, 24, 16, 2), many = best_grid(128, 24, 16, 64);
  CHECK(two.row_parts == 1 && two.column_parts == 2);
  CHECK(many.row_parts > 1);
  const LayerSplit alone = split_layer(bert(768, Precision::bf16_qint8), {128}, 16, 1);
  CHECK(alone.by_chunks && alone.query_rows == 128);
  CHECK(split_layer(bert(384, Precision::bf16), {512}, 16, 48).query_rows < 512);
}

}  // namespace
}  // namespace bert_op::testing
