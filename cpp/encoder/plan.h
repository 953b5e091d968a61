// Who computes what. Threads form teams; a team takes whole sequences through the whole encoder, so teams never wait for
// each other. Inside a team the output columns of every linear layer are split (never K: results do not depend on the
// number of threads). A team works off its sequences in slices whose activations fit the L2 cache.
#pragma once

#include <cstdint>
#include <vector>

#include "encoder/sequences.h"
#include "encoder/shape.h"

namespace bert_op {

struct Slice {
  std::int64_t begin;  // sequences [begin, end) of Sequences::items
  std::int64_t end;
  std::int64_t first;  // its first packed row, counted in Sequences::positions
  std::int64_t rows;
  std::int64_t padded_row;  // where its rows start in the team's buffer of packed activations: a multiple of kRowBlock
};

struct Team {
  std::vector<Slice> slices;
  std::int64_t padded_rows;     // of all slices
  std::int64_t max_slice_rows;  // padded
  std::int64_t max_sequence;
};

struct Plan {
  std::vector<Team> teams;
  int threads_per_team;
};

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

// Part `part` of `parts` nearly equal consecutive parts of [0, count).
Range split(std::int64_t count, int parts, int part);

Plan make_plan(const ModelShape& shape, const Sequences& sequences, int threads);

}  // namespace bert_op
