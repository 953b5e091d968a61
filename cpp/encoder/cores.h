// How many cores this process may use: by affinity and by the CPU quota of its control groups. More threads than that would only
// wait for each other: under a quota of one core, two threads that meet in barriers take several times as long as one.
#pragma once

#include <string>

namespace bert_op {

// Cores' worth of time that a process may take by its control groups, versions 1 and 2; 0 without a limit. A group may take no
// more than any group that it is in, so the least of them counts. `own_groups`: the text of /proc/self/cgroup; `root`: where the
// groups are mounted. What a container does not show is not counted.
double quota_of(const std::string& own_groups, const std::string& root);

// Cores of the affinity of the calling thread, at least 1.
int affinity_cores();

// Cores by the quota, rounded up; 0 without a limit. Read anew at most once a second.
int quota_cores();

// At most `threads`, at most what affinity and quota allow; at least 1.
int usable_threads(int threads);

}  // namespace bert_op
