#include "encoder/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <utility>

#include "encoder/tuning.h"

namespace bert_op {
namespace {

using Lengths = std::vector<std::int64_t>;

std::int64_t sum_of(const Lengths& lengths) { return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}); }

std::int64_t slice_count(std::int64_t rows, std::int64_t target) {
  return std::max<std::int64_t>(1, (rows + target / 2) / target);
}

// Cuts sequences into `parts` consecutive parts with about the same number of rows each. Parts may be empty.
std::vector<Range> cut(const Lengths& lengths, std::int64_t parts) {
  const std::int64_t total = sum_of(lengths), count = static_cast<std::int64_t>(lengths.size());
  std::vector<Range> ranges;
  std::int64_t at = 0, done = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t from = at, goal = total * (part + 1) / parts;
    while (at < count) {
      const std::int64_t length = lengths[static_cast<std::size_t>(at)];
      if (part + 1 < parts && done + length / 2 >= goal) break;
      done += length;
      ++at;
    }
    ranges.push_back({from, at});
  }
  return ranges;
}

// What all candidates for a plan share.
class Planner {
 public:
  Planner(const ModelShape& shape, Isa isa, const Lengths& lengths)
      : shape_(shape), rates_(rates_of(isa, shape.precision)), lengths_(lengths),
        row_block_(isa >= Isa::amx ? kRowBlock : kTileRows), target_(tuning::slice_rows(shape)) {
    for (const std::int64_t length : lengths) costs_.push_back(sequence_cost(shape, rates_, length));
  }

  // No plan for `threads` threads takes less.
  double least_of(int threads) const {
    return std::accumulate(costs_.begin(), costs_.end(), 0.0) / threads * static_cast<double>(shape_.num_layers);
  }

  // The fastest plan for exactly `threads` threads; fewer where there are no teams for them. Many teams come first: they
  // meet least, so the others are soon seen to take longer.
  Plan best_with(int threads) const {
    Plan best{};
    const std::vector<int> numbers = candidates(std::min(threads, static_cast<int>(lengths_.size())));
    for (auto teams = numbers.rbegin(); teams != numbers.rend(); ++teams) {
      const std::vector<Lengths> dealt = deal(*teams);
      const std::vector<int> members = staff(dealt, threads);
      if (!best.teams.empty() && least_of(dealt, members) >= best.microseconds) continue;
      Plan plan = with_teams(dealt, members);
      if (best.teams.empty() || plan.microseconds < best.microseconds) best = std::move(plan);
    }
    return best;
  }

  // Some of the numbers from 1 to `most`, which is among them: all small ones, and larger ones at distances of a quarter.
  static std::vector<int> candidates(int most) {
    std::vector<int> numbers;
    for (int number = 1; number < most; number += std::max(1, number / 4)) numbers.push_back(number);
    numbers.push_back(most);
    return numbers;
  }

 private:
  // The longest sequence first, each to the team that has the least so far.
  std::vector<Lengths> deal(int teams) const {
    std::vector<Lengths> dealt(static_cast<std::size_t>(teams));
    const auto count = static_cast<std::int64_t>(lengths_.size());
    if (std::equal(lengths_.begin() + 1, lengths_.end(), lengths_.begin())) {
      for (std::int64_t i = 0; i < count; ++i) dealt[static_cast<std::size_t>(i * teams / count)].push_back(i);
      return dealt;
    }
    Lengths longest_first(lengths_.size());
    std::iota(longest_first.begin(), longest_first.end(), std::int64_t{0});
    std::stable_sort(longest_first.begin(), longest_first.end(), [&](std::int64_t one, std::int64_t other) {
      return lengths_[static_cast<std::size_t>(one)] > lengths_[static_cast<std::size_t>(other)];
    });
    std::priority_queue<std::pair<double, int>, std::vector<std::pair<double, int>>, std::greater<>> loads;
    for (int team = 0; team < teams; ++team) loads.emplace(0.0, team);
    for (const std::int64_t sequence : longest_first) {
      const auto [load, team] = loads.top();
      loads.pop();
      dealt[static_cast<std::size_t>(team)].push_back(sequence);
      loads.emplace(load + costs_[static_cast<std::size_t>(sequence)], team);
    }
    for (Lengths& of_team : dealt) std::sort(of_team.begin(), of_team.end());
    return dealt;
  }

  double cost_of(const Lengths& sequences) const {
    double cost = 0.0;
    for (const std::int64_t sequence : sequences) cost += costs_[static_cast<std::size_t>(sequence)];
    return cost;
  }

  // Members for each team in proportion to its work: the next one to the team that has most for each of its own.
  std::vector<int> staff(const std::vector<Lengths>& dealt, int threads) const {
    std::vector<double> work;
    for (const Lengths& sequences : dealt) work.push_back(cost_of(sequences));
    const double all = std::accumulate(work.begin(), work.end(), 0.0);
    std::vector<int> members;
    int left = threads;
    for (const double own : work) {
      members.push_back(std::max(1, static_cast<int>(std::floor(own / all * threads))));
      left -= members.back();
    }
    const auto per_member = [&](std::size_t team, int more) { return work[team] / (members[team] + more); };
    for (; left > 0; --left) {
      std::size_t most = 0;
      for (std::size_t team = 1; team < work.size(); ++team) {
        if (per_member(team, 0) > per_member(most, 0)) most = team;
      }
      ++members[most];
    }
    for (; left < 0; ++left) {
      std::size_t least = work.size();
      for (std::size_t team = 0; team < work.size(); ++team) {
        if (members[team] > 1 && (least == work.size() || per_member(team, -1) < per_member(least, -1))) least = team;
      }
      --members[least];
    }
    return members;
  }

  // No plan for these teams takes less: their work, shared out evenly, and barriers at least once for each of 7 phases.
  double least_of(const std::vector<Lengths>& dealt, const std::vector<int>& members) const {
    double least = 0.0;
    for (std::size_t team = 0; team < dealt.size(); ++team) {
      const double meeting = members[team] > 1 ? 7.0 * (rates_.barrier + rates_.barrier_member * members[team]) : 0.0;
      least = std::max(least, cost_of(dealt[team]) / members[team] + meeting);
    }
    return least * static_cast<double>(shape_.num_layers);
  }

  Plan with_teams(const std::vector<Lengths>& dealt, const std::vector<int>& members) const {
    Plan plan{.order = {}, .teams = {}, .row_block = row_block_, .microseconds = 0.0};
    plan.order.reserve(lengths_.size());
    Lengths before;
    double cost = 0.0;
    std::int64_t first = 0;
    for (std::size_t team = 0; team < dealt.size(); ++team) {
      Lengths lengths;
      for (const std::int64_t sequence : dealt[team]) lengths.push_back(lengths_[static_cast<std::size_t>(sequence)]);
      const bool known = team > 0 && lengths == before && members[team] == members[team - 1];
      plan.teams.push_back(
          known ? again(plan.teams.back(), static_cast<std::int64_t>(plan.order.size()), first)
                : make_team(lengths, members[team], static_cast<std::int64_t>(plan.order.size()), first, cost));
      plan.microseconds = std::max(plan.microseconds, cost * static_cast<double>(shape_.num_layers));
      plan.order.insert(plan.order.end(), dealt[team].begin(), dealt[team].end());
      first += sum_of(lengths);
      before = std::move(lengths);
    }
    return plan;
  }

  // The same team for the sequences that come after its own.
  static Team again(Team team, std::int64_t begin, std::int64_t first) {
    const std::int64_t sequences = begin - team.slices.front().begin, rows = first - team.slices.front().first;
    for (Slice& slice : team.slices) {
      slice.begin += sequences;
      slice.end += sequences;
      slice.first += rows;
    }
    return team;
  }

  // cost: of one layer, in microseconds.
  Team make_team(const Lengths& lengths, int members, std::int64_t begin, std::int64_t first, double& cost) const {
    Team team{.members = members, .slices = {}, .padded_rows = 0, .max_slice_rows = 0, .max_sequence = 0};
    cost = 0.0;
    for (const Range& part : cut(lengths, slice_count(sum_of(lengths), target_))) {
      if (part.begin == part.end) continue;
      const Lengths own(lengths.begin() + part.begin, lengths.begin() + part.end);
      const std::int64_t rows = sum_of(own);
      const LayerSplit split = split_layer(shape_, own, row_block_, members);
      cost += slice_cost(shape_, rates_, own, split, row_block_, members, false).microseconds;
      team.slices.push_back({.begin = begin + part.begin,
                             .end = begin + part.end,
                             .first = first,
                             .rows = rows,
                             .padded_row = team.padded_rows,
                             .split = split});
      first += rows;
      const std::int64_t padded = round_up(rows, kRowBlock);
      team.padded_rows += padded;
      team.max_slice_rows = std::max(team.max_slice_rows, padded);
    }
    team.max_sequence = *std::max_element(lengths.begin(), lengths.end());
    return team;
  }

  const ModelShape& shape_;
  const Rates rates_;
  const Lengths& lengths_;
  const std::int64_t row_block_, target_;
  std::vector<double> costs_;
};

}  // namespace

int Plan::threads() const {
  int threads = 0;
  for (const Team& team : teams) threads += team.members;
  return threads;
}

Plan make_plan(const ModelShape& shape, Isa isa, const std::vector<std::int64_t>& lengths, int threads) {
  const Planner planner(shape, isa, lengths);
  std::vector<int> numbers = Planner::candidates(threads);
  std::vector<Plan> plans;
  double least = 0.0;
  // From all threads downwards, until fewer cannot be as fast.
  for (auto number = numbers.rbegin(); number != numbers.rend(); ++number) {
    if (!plans.empty() && planner.least_of(*number) > 1.01 * least) break;
    plans.push_back(planner.best_with(*number));
    const double time = plans.back().microseconds;
    least = plans.size() == 1 ? time : std::min(least, time);
  }
  // What is as fast with fewer threads leaves the others to someone else.
  for (auto plan = plans.rbegin(); plan != plans.rend(); ++plan) {
    if (plan->microseconds <= 1.01 * least) return std::move(*plan);
  }
  return std::move(plans.front());
}

Replay replay(const ModelShape& shape, const Rates& rates, const std::vector<std::int64_t>& lengths, const Plan& plan) {
  Replay played{};
  double busy = 0.0;
  for (const Team& team : plan.teams) {
    double time = 0.0;
    int barriers = team.members > 1 ? 1 : 0;
    for (const Slice& slice : team.slices) {
      Lengths own;
      for (std::int64_t i = slice.begin; i < slice.end; ++i)
        own.push_back(lengths[static_cast<std::size_t>(plan.order[static_cast<std::size_t>(i)])]);
      const SliceCost cost = slice_cost(shape, rates, own, slice.split, plan.row_block, team.members, true);
      time += cost.microseconds * static_cast<double>(shape.num_layers);
      busy += cost.busy * static_cast<double>(shape.num_layers);
      barriers += cost.barriers * static_cast<int>(shape.num_layers);
    }
    played.microseconds = std::max(played.microseconds, time);
    played.barriers = std::max(played.barriers, barriers);
  }
  played.efficiency = busy / (played.microseconds * plan.threads());
  return played;
}

Sequences arranged(Sequences sequences, const std::vector<std::int64_t>& order) {
  if (std::is_sorted(order.begin(), order.end())) return sequences;
  Sequences result;
  result.masks = std::move(sequences.masks);
  result.positions.reserve(sequences.positions.size());
  for (const std::int64_t index : order) {
    Sequence item = sequences.items[static_cast<std::size_t>(index)];
    const auto from = sequences.positions.begin() + item.first;
    item.first = static_cast<std::int64_t>(result.positions.size());
    result.positions.insert(result.positions.end(), from, from + item.length);
    result.items.push_back(item);
  }
  return result;
}

}  // namespace bert_op
