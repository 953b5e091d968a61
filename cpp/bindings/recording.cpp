#include "bindings/recording.h"

#include <algorithm>
#include <cstdio>

namespace bert_op {

namespace {

// With all digits, so that differences of times are as exact as the clock.
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string quoted(const char* text) { return std::string("\"") + text + "\""; }

}  // namespace

void Recording::add(double seconds, const std::vector<SegmentProfile>& segments) {
  ++calls_;
  seconds_ += seconds;
  for (const auto& [precision, profile] : segments) {
    for (std::size_t i = 0; i < kPhases; ++i) {
      phases_.seconds[i] += profile.seconds[i];
      phases_.operations[i] += profile.operations[i];
    }
    if (std::find(precisions_.begin(), precisions_.end(), precision) == precisions_.end())
      precisions_.push_back(precision);
  }
}

std::string Recording::json() const {
  std::string precisions, phases;
  for (const Precision precision : precisions_)
    precisions += (precisions.empty() ? "" : ", ") + quoted(precision_name(precision));
  for (std::size_t i = 0; i < kPhases; ++i) {
    phases += std::string(phases.empty() ? "" : ", ") + "{\"phase\": " + quoted(phase_name(static_cast<Phase>(i))) +
              ", \"seconds\": " + number(phases_.seconds[i]) + ", \"operations\": " + number(phases_.operations[i]) +
              "}";
  }
  return "{\"calls\": " + std::to_string(calls_) + ", \"seconds\": " + number(seconds_) + ", \"precisions\": [" +
         precisions + "], \"phases\": [" + phases + "]}";
}

}  // namespace bert_op
