// What the encoder calls of a profiled forward pass took, added up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "encoder/encoder.h"

namespace bert_op {

struct SegmentProfile {
  Precision precision;
  Profile profile;
};

class Recording {
 public:
  // One call: seconds from its start to its end, and what its segments measured in between.
  void add(double seconds, const std::vector<SegmentProfile>& segments);

  // {"calls": n, "seconds": s, "precisions": [...], "phases": [{"phase": name, "seconds": s, "operations": n}, ...]}
  std::string json() const;

 private:
  std::int64_t calls_ = 0;
  double seconds_ = 0.0;
  Profile phases_;
  std::vector<Precision> precisions_;  // each once, in the order in which they came
};

}  // namespace bert_op
