#include "encoder/cost.h"

#include <algorithm>
#include <numeric>

namespace bert_op {
namespace {

struct Phase {
  double slowest = 0.0;
  double busy = 0.0;

  void add(double microseconds) {
    slowest = std::max(slowest, microseconds);
    busy += microseconds;
  }
};

// `unit`: microseconds that one row takes for one column (a panel or a chunk).
Phase linear_phase(const Grid& grid, std::int64_t rows, std::int64_t columns, std::int64_t row_block, int members,
                   double unit, bool exact) {
  Phase phase;
  if (!exact) {
    const std::int64_t own = std::min(rows, ceil_div(ceil_div(rows, row_block), grid.row_parts) * row_block);
    phase.add(linear_rows(own) * static_cast<double>(ceil_div(columns, grid.column_parts)) * unit);
    return phase;
  }
  for (int member = 0; member < members; ++member) {
    const Part part = part_of(grid, rows, columns, row_block, member);
    phase.add(linear_rows(part.rows.size()) * static_cast<double>(part.columns.size()) * unit);
  }
  return phase;
}

Phase row_phase(std::int64_t rows, std::int64_t columns, const Rates& rates, int members, bool exact) {
  Phase phase;
  const double unit = static_cast<double>(columns) / rates.row;
  if (!exact) {
    phase.add(static_cast<double>(own_rows(rows, members, members - 1).size()) * unit);
    return phase;
  }
  for (int member = 0; member < members; ++member)
    phase.add(static_cast<double>(own_rows(rows, members, member).size()) * unit);
  return phase;
}

Phase attention_phase(const ModelShape& shape, const Rates& rates, const std::vector<std::int64_t>& lengths,
                      std::int64_t query_rows, int members, bool exact) {
  const double unit = 4.0 * static_cast<double>(shape.head_size()) / rates.attention;
  const auto block = [&](std::int64_t rows, std::int64_t keys) {
    return static_cast<double>(rows + kRowsOfOnePacking) * static_cast<double>(keys) * unit;
  };
  Phase phase;
  if (!exact) {
    double blocks = 0.0, work = 0.0;
    for (const std::int64_t length : lengths) {
      const auto own = static_cast<double>(ceil_div(length, query_rows) * shape.num_heads);
      blocks += own;
      work += own * block(0, length) + static_cast<double>(shape.num_heads * length * length) * unit;
    }
    phase.add(static_cast<double>(ceil_div(static_cast<std::int64_t>(blocks), members)) * work / blocks);
    return phase;
  }
  std::vector<double> own(static_cast<std::size_t>(members));
  std::size_t turn = 0;
  for (const std::int64_t length : lengths) {
    for (std::int64_t head = 0; head < shape.num_heads; ++head) {
      for (std::int64_t row = 0; row < length; row += query_rows)
        own[turn++ % own.size()] += block(std::min(query_rows, length - row), length);
    }
  }
  for (const double microseconds : own) phase.add(microseconds);
  return phase;
}

}  // namespace

Rates rates_of(Isa isa, Precision precision) {
  const bool quantized = linear_type(precision) == ElementType::u8;
  const bool half = float_type(precision) == ElementType::bf16;
  Rates rates{.linear = 1e4, .attention = 5e3, .row = 200.0, .barrier = 0.3, .barrier_member = 0.06};
  if (isa >= Isa::avx2) {
    const bool bytes = quantized && isa == Isa::avx2_vnni;
    rates = {.linear = bytes       ? 4e5
                       : quantized ? 1.2e5
                                   : 1e5,
             .attention = 5e4,
             .row = 2000.0,
             .barrier = 0.3,
             .barrier_member = 0.06};
  }
  if (isa >= Isa::avx512) {
    rates.linear = quantized ? 4e5 : 1.8e5;
    rates.attention = 9e4;
    rates.row = 3500.0;
  }
  if (isa >= Isa::avx512_vnni && quantized) rates.linear = 8e5;
  if (isa >= Isa::avx512 && half && has_avx512_bf16()) {
    if (!quantized) rates.linear = 4e5;
    rates.attention = 2.5e5;
  }
  if (isa >= Isa::amx) rates.linear = quantized ? 2.4e6 : half ? 1.2e6 : 3e5;
  return rates;
}

SliceCost slice_cost(const ModelShape& shape, const Rates& rates, const std::vector<std::int64_t>& lengths,
                     const LayerSplit& split, std::int64_t row_block, int members, bool exact) {
  const std::int64_t rows = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  const std::int64_t hidden = shape.hidden_size, wide = shape.intermediate_size;
  const double panel = 2.0 * kPanelColumns / rates.linear;  // of one row and one input
  const auto linear = [&](const Grid& grid, std::int64_t columns, double unit) {
    return linear_phase(grid, rows, columns, row_block, members, unit, exact);
  };
  const double narrow = panel * static_cast<double>(hidden);
  SliceCost cost{};
  const auto add = [&](const Phase& phase) {
    cost.microseconds += phase.slowest;
    cost.busy += phase.busy;
  };
  const auto meet = [&] {
    if (members == 1) return;
    ++cost.barriers;
    cost.microseconds += rates.barrier + rates.barrier_member * members;
  };
  add(linear(split.qkv, 3 * hidden / kPanelColumns, narrow));
  meet();
  add(attention_phase(shape, rates, lengths, split.query_rows, members, exact));
  meet();
  if (shape.type_of(LinearKind::attention_output) == ElementType::u8) {
    add(row_phase(rows, hidden, rates, members, exact));
    meet();
  }
  add(linear(split.attention_output, hidden / kPanelColumns, narrow));
  meet();
  add(row_phase(rows, 2 * hidden, rates, members, exact));
  meet();
  const bool quantized = shape.type_of(LinearKind::output) == ElementType::u8;
  if (split.by_chunks) {
    const std::int64_t tiles = k_tiles(ElementType::u8, wide);
    const std::int64_t chunks = chunk_count(ElementType::u8, tiles);
    const double panels = static_cast<double>(wide / kPanelColumns) / static_cast<double>(chunks);
    add(linear(split.intermediate, chunks, narrow * panels));
  } else {
    add(linear(split.intermediate, wide / kPanelColumns, narrow));
    if (quantized) meet();
  }
  if (quantized) add(row_phase(rows, wide, rates, members, exact));
  meet();
  add(linear(split.output, hidden / kPanelColumns, panel * static_cast<double>(wide)));
  meet();
  add(row_phase(rows, 2 * hidden, rates, members, exact));
  meet();
  return cost;
}

double sequence_cost(const ModelShape& shape, const Rates& rates, std::int64_t length) {
  const auto rows = static_cast<double>(length), hidden = static_cast<double>(shape.hidden_size);
  const auto wide = static_cast<double>(shape.intermediate_size);
  const auto quantized = [&](LinearKind linear) { return shape.type_of(linear) == ElementType::u8 ? 1.0 : 0.0; };
  const double passed = (4.0 + quantized(LinearKind::attention_output)) * hidden + quantized(LinearKind::output) * wide;
  return rows * (2.0 * hidden * (4.0 * hidden + 2.0 * wide) / rates.linear + 4.0 * rows * hidden / rates.attention +
                 passed / rates.row);
}

}  // namespace bert_op
