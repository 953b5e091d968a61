#include "bindings/peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>

#include "kernels/kernels.h"

namespace bert_op {

double measure_peak(const std::string& type, double seconds, const std::string& isa) {
  if (!(seconds >= 0.0 && seconds <= 60.0)) throw std::invalid_argument("seconds must be from 0 to 60");
  const Kernels& tier = kernels(isa.empty() ? active_isa() : parse_isa(isa));
  const ElementType element_type = parse_element_type(type);
  using Clock = std::chrono::steady_clock;
  double best = 0.0;
  std::int64_t rounds = 1000;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    const auto operations = static_cast<double>(tier.peak(element_type, rounds));
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    if (took < 0.005)
      rounds *= 4;
    else
      best = std::max(best, operations / took);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds || best == 0.0);
  return best;
}

}  // namespace bert_op
