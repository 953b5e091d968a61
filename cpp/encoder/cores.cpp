#include "encoder/cores.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace bert_op {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "quota period", or "max period", or -1: no limit, as is everything else that is not two numbers.
double ratio_of(const std::string& text) {
  std::istringstream words(text);
  double quota = 0.0, period = 0.0;
  return words >> quota >> period && quota > 0.0 && period > 0.0 ? quota / period : 0.0;
}

// The group at `path` below `tree` and all that it is in. In a container the path can be one of the host.
std::vector<std::string> groups_of(const std::string& tree, const std::string& path) {
  std::vector<std::string> groups = {tree};
  if (path.find("/..") != std::string::npos) return groups;
  std::istringstream names(path);
  std::string name, group = tree;
  while (std::getline(names, name, '/')) {
    if (name.empty()) continue;
    group += "/" + name;
    groups.push_back(group);
  }
  return groups;
}

bool has_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  std::string name;
  while (std::getline(names, name, ',')) {
    if (name == "cpu") return true;
  }
  return false;
}

std::int64_t seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec + 1;  // never 0, which stands for "not read yet"
}

}  // namespace

double quota_of(const std::string& own_groups, const std::string& root) {
  double least = 0.0;
  const auto count = [&](double cores) {
    if (cores > 0.0 && (least == 0.0 || cores < least)) least = cores;
  };
  std::istringstream lines(own_groups);
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {  // version 2, which has one tree for everything
      for (const std::string& tree : {root, root + "/unified"}) {
        for (const std::string& group : groups_of(tree, path)) count(ratio_of(text_of(group + "/cpu.max")));
      }
    } else if (has_cpu(controllers)) {
      for (const std::string& tree : {root + "/" + controllers, root + "/cpu"}) {
        for (const std::string& group : groups_of(tree, path)) {
          count(ratio_of(text_of(group + "/cpu.cfs_quota_us") + " " + text_of(group + "/cpu.cfs_period_us")));
        }
      }
    }
  }
  return least;
}

int affinity_cores() {
  cpu_set_t cores;
  // Beyond 1024 cores the set does not fit, and nothing is limited.
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? std::max(1, CPU_COUNT(&cores)) : 1 << 16;
}

int quota_cores() {
  static std::atomic<std::int64_t> read_at{0};
  static std::atomic<int> known{0};
  const std::int64_t now = seconds_now();
  std::int64_t before = read_at.load(std::memory_order_acquire);
  if (before != now && read_at.compare_exchange_strong(before, now, std::memory_order_acq_rel)) {
    known.store(static_cast<int>(std::ceil(quota_of(text_of("/proc/self/cgroup"), "/sys/fs/cgroup") - 1e-9)));
  }
  return known.load();
}

int usable_threads(int threads) {
  if (threads <= 1) return 1;
  const int quota = quota_cores();
  return std::max(1, std::min({threads, affinity_cores(), quota > 0 ? quota : threads}));
}

}  // namespace bert_op
