// What a call takes, as far as it can be said beforehand: the plan is chosen by it, and a replay of it shows what other
// machines would do. Microseconds of threads that run at the same speed and share nothing but barriers.
#pragma once

#include <cstdint>
#include <vector>

#include "encoder/shape.h"
#include "encoder/split.h"
#include "kernels/isa.h"

namespace bert_op {

// Of one core.
struct Rates {
  double linear;          // operations a microsecond of the linear layers: multiplications and additions
  double attention;       // of attention's products, softmax included
  double row;             // numbers a microsecond that LayerNorm or a quantization goes through
  double barrier;         // microseconds
  double barrier_member;  // microseconds more for each member of a team
};

// What was measured on a core of Zen 4 and 5 in their tiers; for AMX what a quarter of its peak would be. Only their
// proportions decide a plan.
Rates rates_of(Isa isa, Precision precision);

// One slice in one layer on a team.
struct SliceCost {
  double microseconds;  // until the last member has done, barriers included
  double busy;          // what all members together compute
  int barriers;
};

// exact: member by member, as a replay does; else by the largest share, which is enough to choose by.
SliceCost slice_cost(const ModelShape& shape, const Rates& rates, const std::vector<std::int64_t>& lengths,
                     const LayerSplit& split, std::int64_t row_block, int members, bool exact);

// One sequence on one thread, in one layer, in microseconds: no plan takes less of it.
double sequence_cost(const ModelShape& shape, const Rates& rates, std::int64_t length);

}  // namespace bert_op
