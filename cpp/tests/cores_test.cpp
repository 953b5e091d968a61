// The cores that a process may use, from made-up control groups.
#include "encoder/cores.h"

#include <sched.h>

#include <filesystem>
#include <fstream>

#include "tests/check.h"

namespace bert_op::testing {
namespace {

namespace fs = std::filesystem;

// A tree of control groups in a folder that goes away with it.
class Tree {
 public:
  Tree() {
    std::string name = (fs::temp_directory_path() / "bert_op_cores_XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr);
    root = name;
  }
  ~Tree() { fs::remove_all(root); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
  double quota(const std::string& own_groups) const { return quota_of(own_groups, root.string()); }

  fs::path root;
};

TEST(quota_is_the_least_of_a_group_and_of_those_it_is_in) {
  const Tree tree;
  tree.write("pods/cpu.max", "300000 100000\n");
  tree.write("pods/one/cpu.max", "50000 100000\n");
  tree.write("pods/one/inner/cpu.max", "max 100000\n");
  tree.write("pods/two/cpu.max", "800000 100000\n");
  CHECK(tree.quota("0::/pods/one/inner\n") == 0.5);
  CHECK(tree.quota("0::/pods/two\n") == 3.0);
  CHECK(tree.quota("0::/elsewhere\n") == 0.0);
  CHECK(tree.quota("0::/pods/../pods/one\n") == 0.0);
  CHECK(tree.quota("") == 0.0 && tree.quota("nonsense\n:\n::\n") == 0.0);
}

TEST(quota_of_the_root_that_a_container_shows) {
  const Tree tree;
  tree.write("cpu.max", "150000 100000\n");
  CHECK(tree.quota("0::/\n") == 1.5);
  CHECK(tree.quota("0::/of/the/host\n") == 1.5);
}

TEST(quota_of_version_1_and_of_both) {
  const Tree tree;
  tree.write("cpu,cpuacct/box/cpu.cfs_quota_us", "200000\n");
  tree.write("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  tree.write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  tree.write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  tree.write("unified/box/cpu.max", "100000 100000\n");
  CHECK(tree.quota("4:memory:/box\n3:cpu,cpuacct:/box\n") == 2.0);
  CHECK(tree.quota("3:cpu,cpuacct:/\n") == 0.0);
  CHECK(tree.quota("3:cpu,cpuacct:/box\n0::/box\n") == 1.0);
  CHECK(tree.quota("3:cpuset:/box\n") == 0.0);
}

TEST(threads_are_no_more_than_the_affinity_allows) {
  cpu_set_t before;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  }
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(affinity_cores() == 1);
  CHECK(usable_threads(8) == 1);
  CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(affinity_cores() == CPU_COUNT(&before));
  CHECK(usable_threads(1) == 1 && usable_threads(0) == 1);
  CHECK(usable_threads(1 << 20) <= affinity_cores());
}

}  // namespace
}  // namespace bert_op::testing
