// Who computes what. Threads form teams; a team takes whole sequences through the whole encoder, so teams never wait for
// each other. Inside a team layers are split as encoder/split.h says. A team works off its sequences in slices whose
// activations fit the L2 cache. How many threads take part, how many teams they form, of how many members each and with
// which sequences: whatever the cost model says takes the least time.
#pragma once

#include <cstdint>
#include <vector>

#include "encoder/cost.h"
#include "encoder/sequences.h"
#include "encoder/shape.h"
#include "encoder/split.h"
#include "kernels/isa.h"

namespace bert_op {

struct Slice {
  std::int64_t begin;  // sequences [begin, end) of Plan::order
  std::int64_t end;
  std::int64_t first;  // its first packed row, counted in Sequences::positions
  std::int64_t rows;
  std::int64_t padded_row;  // where its rows start in the team's buffer of packed activations: a multiple of kRowBlock
  LayerSplit split;
};

struct Team {
  int members;
  std::vector<Slice> slices;
  std::int64_t padded_rows;     // of all slices
  std::int64_t max_slice_rows;  // padded
  std::int64_t max_sequence;
};

struct Plan {
  std::vector<std::int64_t> order;  // the sequences, team after team
  std::vector<Team> teams;
  std::int64_t row_block;  // rows that are never divided among members
  double microseconds;     // estimated

  int threads() const;
};

// lengths: of the sequences, each at least 1. At most `threads` threads take part. Pure: the same arguments, the same plan.
Plan make_plan(const ModelShape& shape, Isa isa, const std::vector<std::int64_t>& lengths, int threads);

// A plan replayed with the cost model, member by member.
struct Replay {
  double microseconds;  // of the slowest team
  double efficiency;    // mean over largest of what the threads compute, barriers counted as waiting
  int barriers;         // of the team that meets most often
};
Replay replay(const ModelShape& shape, const Rates& rates, const std::vector<std::int64_t>& lengths, const Plan& plan);

// The sequences in the order of a plan, next to each other in packed rows.
Sequences arranged(Sequences sequences, const std::vector<std::int64_t>& order);

}  // namespace bert_op
