#include "encoder/split.h"

#include <algorithm>
#include <numeric>

namespace bert_op {
namespace {

// Measured: 16 rows run at 87 % of the speed of many, a panel's turn costs about two rows.
constexpr double kRowsOfOneStream = 18.0, kRowsOfOnePass = 2.0;

double cost_of(const Grid& grid, std::int64_t rows, std::int64_t columns, std::int64_t row_block) {
  const std::int64_t own = std::min(rows, ceil_div(ceil_div(rows, row_block), grid.row_parts) * row_block);
  return linear_rows(own) * static_cast<double>(ceil_div(columns, grid.column_parts));
}

// Query rows of a block: the largest share of all blocks, dealt out in turn, has to be the smallest.
std::int64_t best_query_rows(std::int64_t heads, const std::vector<std::int64_t>& lengths, std::int64_t row_block,
                             int members) {
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::int64_t best = round_up(longest, row_block);
  if (members == 1) return best;
  double least = 0.0;
  for (std::int64_t parts = 1; parts <= ceil_div(longest, row_block); ++parts) {
    const std::int64_t query_rows = round_up(ceil_div(longest, parts), row_block);
    double blocks = 0.0, work = 0.0;
    for (const std::int64_t length : lengths) {
      const auto own = static_cast<double>(ceil_div(length, query_rows) * heads);
      blocks += own;
      work += (static_cast<double>(length * heads) + own * kRowsOfOnePacking) * static_cast<double>(length);
    }
    const auto turns = static_cast<double>(ceil_div(static_cast<std::int64_t>(blocks), members));
    const double share = turns * work / blocks;
    if (parts > 1 && share >= 0.99 * least) continue;
    best = query_rows;
    least = share;
  }
  return best;
}

}  // namespace

Range split(std::int64_t count, int parts, int part) {
  if (part >= parts) return {count, count};
  return {count * part / parts, count * (part + 1) / parts};
}

Part part_of(const Grid& grid, std::int64_t rows, std::int64_t columns, std::int64_t row_block, int member) {
  const Range blocks = split(ceil_div(rows, row_block), grid.row_parts, member / grid.column_parts);
  return {{std::min(rows, blocks.begin * row_block), std::min(rows, blocks.end * row_block)},
          split(columns, grid.column_parts, member % grid.column_parts)};
}

double linear_rows(std::int64_t rows) {
  return rows == 0 ? 0.0 : std::max(static_cast<double>(rows) + kRowsOfOnePass, kRowsOfOneStream);
}

Grid best_grid(std::int64_t rows, std::int64_t columns, std::int64_t row_block, int members) {
  Grid best{1, static_cast<int>(std::min<std::int64_t>(members, columns))};
  double least = cost_of(best, rows, columns, row_block);
  const std::int64_t most = std::min<std::int64_t>(members, ceil_div(rows, row_block));
  for (int parts = 2; parts <= most; ++parts) {
    const Grid grid{parts, static_cast<int>(std::min<std::int64_t>(members / parts, columns))};
    const double cost = cost_of(grid, rows, columns, row_block);
    if (cost >= 0.99 * least) continue;
    best = grid;
    least = cost;
  }
  return best;
}

LayerSplit split_layer(const ModelShape& shape, const std::vector<std::int64_t>& lengths, std::int64_t row_block,
                       int members) {
  const std::int64_t rows = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  const std::int64_t hidden = shape.hidden_size / kPanelColumns, wide = shape.intermediate_size / kPanelColumns;
  LayerSplit chosen{.qkv = best_grid(rows, 3 * hidden, row_block, members),
                    .attention_output = best_grid(rows, hidden, row_block, members),
                    .intermediate = best_grid(rows, wide, row_block, members),
                    .output = best_grid(rows, hidden, row_block, members),
                    .by_chunks = false,
                    .query_rows = best_query_rows(shape.num_heads, lengths, row_block, members)};
  if (shape.type_of(LinearKind::output) != ElementType::u8) return chosen;
  const std::int64_t tiles = k_tiles(ElementType::u8, shape.intermediate_size);
  const std::int64_t chunks = chunk_count(ElementType::u8, tiles);
  const std::int64_t chunk_panels = chunk_tiles(ElementType::u8, tiles) * kTileRowBytes / kPanelColumns;
  const Grid by_chunks = best_grid(rows, chunks, row_block, members);
  const double in_chunks = cost_of(by_chunks, rows, chunks, row_block) * static_cast<double>(chunk_panels);
  if (in_chunks <= 1.05 * cost_of(chosen.intermediate, rows, wide, row_block)) {
    chosen.intermediate = by_chunks;
    chosen.by_chunks = true;
  }
  return chosen;
}

Range own_rows(std::int64_t rows, int members, int member) {
  if (ceil_div(rows, kTileRows) < 2 * members) return split(rows, members, member);
  const Range tiles = split(ceil_div(rows, kTileRows), members, member);
  return {std::min(rows, tiles.begin * kTileRows), std::min(rows, tiles.end * kTileRows)};
}

}  // namespace bert_op
