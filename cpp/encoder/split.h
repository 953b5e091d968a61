// How the members of a team share the layers of a slice. Linear layers are cut into rows x panels (never along K, so results
// do not depend on the number of threads), heads into blocks of query rows, everything that goes row by row into rows.
#pragma once

#include <cstdint>
#include <vector>

#include "encoder/shape.h"

namespace bert_op {

struct Range {
  std::int64_t begin;
  std::int64_t end;

  std::int64_t size() const { return end - begin; }
};

// Part `part` of `parts` nearly equal consecutive parts of [0, count); nothing for a part beyond them.
Range split(std::int64_t count, int parts, int part);

// rows x columns; columns are panels, or chunks of them. Member m has row part m / column_parts and column part
// m % column_parts; members beyond the last row part have nothing to do.
struct Grid {
  int row_parts;
  int column_parts;
};

// Rows in whole blocks, the last of which may be shorter.
struct Part {
  Range rows;
  Range columns;

  bool empty() const { return rows.begin == rows.end || columns.begin == columns.end; }
};

Part part_of(const Grid& grid, std::int64_t rows, std::int64_t columns, std::int64_t row_block, int member);

// What rows cost a linear layer, in rows: few of them wait for the stream of weights, and each pass has a beginning.
double linear_rows(std::int64_t rows);

// The grid whose largest part costs the least; panels are preferred, since then every row is read by all, but each weight by
// one member alone.
Grid best_grid(std::int64_t rows, std::int64_t columns, std::int64_t row_block, int members);

// What a block of query rows costs attention before it has begun, in query rows: keys and values are packed for each.
constexpr std::int64_t kRowsOfOnePacking = 16;

struct LayerSplit {
  Grid qkv;
  Grid attention_output;
  Grid intermediate;  // rows x panels; by_chunks: rows x the chunks in which the next linear layer quantizes
  Grid output;
  bool by_chunks;           // each member quantizes what it computed, while it is in its cache
  std::int64_t query_rows;  // of a block of a head
};

// lengths: of the sequences of the slice. row_block: rows that a kernel takes at once, 16 or 32.
LayerSplit split_layer(const ModelShape& shape, const std::vector<std::int64_t>& lengths, std::int64_t row_block,
                       int members);

// The rows that a member normalizes or quantizes: whole tiles, unless there are too few of them for all.
Range own_rows(std::int64_t rows, int members, int member);

}  // namespace bert_op
