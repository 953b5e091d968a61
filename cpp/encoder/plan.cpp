#include "encoder/plan.h"

#include <algorithm>

#include "encoder/tuning.h"

namespace bert_op {
namespace {

std::int64_t rows_of(const Sequences& sequences, std::int64_t begin, std::int64_t end) {
  std::int64_t rows = 0;
  for (std::int64_t i = begin; i < end; ++i) rows += sequences.items[static_cast<std::size_t>(i)].length;
  return rows;
}

// Cuts [begin, end) into `parts` consecutive parts with about the same number of rows each. Parts may be empty.
std::vector<Range> cut(const Sequences& sequences, std::int64_t begin, std::int64_t end, std::int64_t parts) {
  const std::int64_t total = rows_of(sequences, begin, end);
  std::vector<Range> ranges;
  std::int64_t at = begin, done = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t from = at, goal = total * (part + 1) / parts;
    while (at < end) {
      const std::int64_t length = sequences.items[static_cast<std::size_t>(at)].length;
      if (part + 1 < parts && done + length / 2 >= goal) break;
      done += length;
      ++at;
    }
    ranges.push_back({from, at});
  }
  return ranges;
}

std::int64_t slice_count(std::int64_t rows, std::int64_t target) {
  return std::max<std::int64_t>(1, (rows + target / 2) / target);
}

// Time of the slowest team, in rows that one thread computes.
double cost(const Sequences& sequences, const std::vector<Range>& teams, int threads_per_team, std::int64_t target) {
  double slowest = 0.0;
  for (const Range& team : teams) {
    const std::int64_t rows = rows_of(sequences, team.begin, team.end);
    const std::int64_t streamed = slice_count(rows, target) * tuning::kRowsOfOneWeightStream;
    slowest = std::max(slowest, static_cast<double>(std::max(rows, streamed)) / threads_per_team);
  }
  return threads_per_team > 1 ? slowest * tuning::kTeamOverhead : slowest;
}

Team make_team(const Sequences& sequences, Range range, std::int64_t target) {
  Team team{};
  const std::int64_t rows = rows_of(sequences, range.begin, range.end);
  for (const Range& part : cut(sequences, range.begin, range.end, slice_count(rows, target))) {
    if (part.begin == part.end) continue;
    const std::int64_t slice_rows = rows_of(sequences, part.begin, part.end);
    team.slices.push_back({.begin = part.begin,
                           .end = part.end,
                           .first = sequences.items[static_cast<std::size_t>(part.begin)].first,
                           .rows = slice_rows,
                           .padded_row = team.padded_rows});
    const std::int64_t padded = round_up(slice_rows, kRowBlock);
    team.padded_rows += padded;
    team.max_slice_rows = std::max(team.max_slice_rows, padded);
  }
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    team.max_sequence = std::max(team.max_sequence, sequences.items[static_cast<std::size_t>(i)].length);
  }
  return team;
}

}  // namespace

Range split(std::int64_t count, int parts, int part) { return {count * part / parts, count * (part + 1) / parts}; }

Plan make_plan(const ModelShape& shape, const Sequences& sequences, int threads) {
  const std::int64_t target = tuning::slice_rows(shape);
  const auto count = static_cast<std::int64_t>(sequences.items.size());
  std::vector<Range> best;
  int best_threads = threads;
  double best_cost = 0.0;
  for (int teams = threads; teams >= 1; --teams) {
    if (threads % teams != 0 || (teams > count && teams > 1)) continue;
    std::vector<Range> ranges = cut(sequences, 0, count, teams);
    const double time = cost(sequences, ranges, threads / teams, target);
    if (!best.empty() && time >= best_cost) continue;
    best = std::move(ranges);
    best_threads = threads / teams;
    best_cost = time;
  }
  Plan plan{.teams = {}, .threads_per_team = best_threads};
  for (const Range& range : best) plan.teams.push_back(make_team(sequences, range, target));
  return plan;
}

}  // namespace bert_op
