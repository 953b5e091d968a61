"""What the machine did to a measurement, and what the process took: counters of Linux, read before and after.

Reading them at both ends costs nothing inside the window; a sampling thread would be measured too. A counter
that this system does not offer is absent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CPU_FOLDER = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")

# Past these a measurement is called noisy. Shares are of the CPU time that the window offered.
MAX_STEAL_SHARE = 0.01
MAX_OTHERS_SHARE = 0.05
MAX_OTHERS_CPUS = 0.5
MAX_ELSEWHERE_SHARE = 0.05
MAX_SWITCHES_PER_SECOND = 100.0
MAX_MAJOR_FAULTS_PER_SECOND = 10.0
MAX_FREQUENCY_DROP = 0.1

MEGABYTE = 1e6


@dataclass(frozen=True)
class Snapshot:
    """Counters since the start of the process or the machine; times are of the CPUs that it may use.

    machine_busy_s, machine_cpus: of all CPUs. quota_wait_s: time that a container's CPU limit held it back.
    """

    own_cpu_s: float
    busy_cpu_s: float | None
    machine_busy_s: float | None
    machine_cpus: int
    steal_s: float | None
    involuntary_switches: int
    voluntary_switches: int
    minor_faults: int
    major_faults: int
    throttle_events: int | None
    quota_wait_s: float | None
    frequency_mhz: float | None
    runnable: int | None


def snapshot() -> Snapshot:
    """The counters now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpus = os.sched_getaffinity(0)
    stat = _read(PROC / "stat") or ""
    times, everywhere = cpu_times(stat, cpus), cpu_times(stat, None)
    return Snapshot(
        own_cpu_s=usage.ru_utime + usage.ru_stime,
        busy_cpu_s=times[0] if times else None,
        machine_busy_s=everywhere[0] if everywhere else None,
        machine_cpus=os.cpu_count() or len(cpus),
        steal_s=times[1] if times else None,
        involuntary_switches=usage.ru_nivcsw,
        voluntary_switches=usage.ru_nvcsw,
        minor_faults=usage.ru_minflt,
        major_faults=usage.ru_majflt,
        throttle_events=_throttle_events(cpus),
        quota_wait_s=quota_wait(_read(CGROUP / "cpu.stat") or ""),
        frequency_mhz=_frequency(cpus),
        runnable=_runnable(stat),
    )


def interference(before: Snapshot, after: Snapshot, elapsed_s: float) -> dict[str, float]:
    """Counters of the window between two snapshots, by name; those that were not readable are left out."""
    own = after.own_cpu_s - before.own_cpu_s
    values: dict[str, float | None] = {
        "elapsed_s": elapsed_s,
        "own_cpu_s": own,
        "others_cpu_s": _others(before.busy_cpu_s, after.busy_cpu_s, own),
        "machine_others_cpu_s": _others(before.machine_busy_s, after.machine_busy_s, own),
        "machine_cpus": after.machine_cpus,
        "steal_s": _difference(before.steal_s, after.steal_s),
        "involuntary_switches": after.involuntary_switches - before.involuntary_switches,
        "voluntary_switches": after.voluntary_switches - before.voluntary_switches,
        "minor_faults": after.minor_faults - before.minor_faults,
        "major_faults": after.major_faults - before.major_faults,
        "throttle_events": _difference(before.throttle_events, after.throttle_events),
        "quota_wait_s": _difference(before.quota_wait_s, after.quota_wait_s),
        "frequency_mhz_before": before.frequency_mhz,
        "frequency_mhz_after": after.frequency_mhz,
        "runnable_before": before.runnable,
        "runnable_after": after.runnable,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def noisy_because(counters: dict[str, float], cpus: int, alone: bool = True) -> tuple[str, ...]:
    """One clause for each threshold that the counters of `interference` pass.

    cpus: CPUs that could be used. alone: False when other instances of the job work on the other CPUs.
    """
    elapsed = counters["elapsed_s"]
    if elapsed <= 0:
        return ()
    offered = elapsed * cpus
    reasons = []
    steal = counters.get("steal_s", 0.0) / offered
    if steal > MAX_STEAL_SHARE:
        reasons.append(f"the hypervisor took {steal:.0%} of the CPU time")
    others = counters.get("others_cpu_s", 0.0) / offered
    elsewhere = counters.get("machine_others_cpu_s", 0.0) / (elapsed * counters.get("machine_cpus", cpus))
    if others > MAX_OTHERS_SHARE or others * cpus > MAX_OTHERS_CPUS:
        reasons.append(f"other processes took {others:.0%} of the CPU time")
    elif alone and elsewhere > MAX_ELSEWHERE_SHARE:
        # They share its memory, its last cache and its power.
        reasons.append(f"other processes took {elsewhere:.0%} of the machine's CPU time, on other cores")
    switches = counters["involuntary_switches"] / elapsed
    if switches > MAX_SWITCHES_PER_SECOND:
        reasons.append(f"{switches:.0f} involuntary context switches a second")
    faults = counters["major_faults"] / elapsed
    if faults > MAX_MAJOR_FAULTS_PER_SECOND:
        reasons.append(f"{faults:.0f} major page faults a second")
    if counters.get("throttle_events", 0.0) > 0:
        reasons.append(f"{counters['throttle_events']:.0f} thermal throttling events")
    held = counters.get("quota_wait_s", 0.0) / offered
    if held > MAX_STEAL_SHARE:
        reasons.append(f"the container's CPU limit held it back for {held:.0%} of the CPU time")
    first, last = counters.get("frequency_mhz_before"), counters.get("frequency_mhz_after")
    if first and last and last < first * (1 - MAX_FREQUENCY_DROP):
        reasons.append(f"the clock fell from {first:.0f} to {last:.0f} MHz")
    return tuple(reasons)


def cpu_times(stat: str, cpus: set[int] | None) -> tuple[float, float] | None:
    """(busy, stolen) seconds of `cpus` since boot from the text of /proc/stat, of all of them for None; None
    where it lists none.
    """
    tick = os.sysconf("SC_CLK_TCK")
    busy = stolen = 0
    found = False
    for line in stat.splitlines():
        name, *fields = line.split() or [""]
        if not name.startswith("cpu") or not name[3:].isdigit():
            continue
        if cpus is not None and int(name[3:]) not in cpus:
            continue
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
        busy += user + nice + system + irq + softirq
        stolen += steal
        found = True
    return (busy / tick, stolen / tick) if found else None


def quota_wait(cpu_stat: str) -> float | None:
    """Seconds that the threads of this control group waited for its CPU quota, from the text of its
    cpu.stat.
    """
    for line in cpu_stat.splitlines():
        name, _, value = line.partition(" ")
        if name == "throttled_usec":
            return int(value) / 1e6
    return None


def trim_memory() -> None:
    """Gives freed memory back to the system, so that the next peak is that of what is still in use."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak_memory() -> bool:
    """Starts the peak anew at what the process holds now; False where the system does not allow it."""
    try:
        (PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb() -> float | None:
    """Highest resident size since the start or the last reset, in 1e6 bytes."""
    for line in (_read(PROC / "self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    return None


def cpu_model() -> str | None:
    """The processor's name as Linux tells it."""
    for line in (_read(PROC / "cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def _others(before: float | None, after: float | None, own: float) -> float | None:
    busy = _difference(before, after)
    # The machine counts in ticks of 10 ms, the process exactly: the difference can come out below zero.
    return None if busy is None else max(0.0, busy - own)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _throttle_events(cpus: set[int]) -> int | None:
    counts = [_read(CPU_FOLDER / f"cpu{cpu}/thermal_throttle/core_throttle_count") for cpu in sorted(cpus)]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _frequency(cpus: set[int]) -> float | None:
    """Mean clock of `cpus` in MHz."""
    kilohertz = [_read(CPU_FOLDER / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in sorted(cpus)]
    known = [float(value) / 1000 for value in kilohertz if value is not None]
    return sum(known) / len(known) if known else None


def _runnable(stat: str) -> int | None:
    """Runnable tasks on the whole machine, this one included."""
    for line in stat.splitlines():
        if line.startswith("procs_running"):
            return int(line.split()[1])
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
