"""Where the measured window really ran: threads, cores and memory nodes as Linux accounts for them in /proc.

It looks at the process from outside of the backend, so it says the same of every backend: what a library
reports of itself is what it was told, not what it did.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.values.cores import parse_cores
from harness.values.errors import UserError
from harness.values.report import Observed

PROC = Path("/proc/self")
NODES = Path("/sys/devices/system/node")
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")

# A thread worked when it used at least this share of the CPU time of the busiest one: those of a team that
# waits for work spin and use most of it, while one that only hands inputs over or waits uses next to none.
WORKED_SHARE = 0.05


@dataclass(frozen=True)
class Task:
    """One thread of this process. cpu_s: CPU time so far; cores: CPUs that it may run on."""

    cpu_s: float
    cores: tuple[int, ...]


def tasks() -> dict[str, Task]:
    """The threads of this process now, by their number; one that ends meanwhile is left out."""
    found = {}
    for folder in (PROC / "task").glob("*"):
        try:
            status = (folder / "status").read_text()
            found[folder.name] = Task(_cpu_s(folder), parse_cores(_field(status, "Cpus_allowed_list")))
        except (OSError, ValueError, IndexError, UserError):
            continue
    return found


def observe(before: dict[str, Task], after: dict[str, Task]) -> Observed | None:
    """What ran between two calls of `tasks`; None where the system does not tell."""
    used = {name: task.cpu_s - (before[name].cpu_s if name in before else 0) for name, task in after.items()}
    busiest = max(used.values(), default=0.0)
    if busiest <= 0:
        return None
    worked = [name for name, seconds in used.items() if seconds >= WORKED_SHARE * busiest]
    cores = sorted({core for name in worked for core in after[name].cores})
    return Observed(
        threads=len(worked),
        cores=tuple(cores),
        numa_nodes=nodes_of(cores),
        memory_nodes=memory_nodes(_read(PROC / "numa_maps")),
        memory_allowed=_field(_read(PROC / "status"), "Mems_allowed_list") or None,
        allocator=allocator(_read(PROC / "maps")),
    )


def nodes_of(cores: Iterable[int]) -> tuple[int, ...]:
    """NUMA nodes that `cores` belong to; empty where the system lists none."""
    wanted, found = set(cores), []
    for folder in NODES.glob("node[0-9]*"):
        listed = _read(folder / "cpulist").strip()
        if listed and wanted & set(parse_cores(listed)):
            found.append(int(folder.name.removeprefix("node")))
    return tuple(sorted(found))


def memory_nodes(numa_maps: str) -> dict[str, float]:
    """Share of this process's own (anonymous) pages on each NUMA node, from the text of numa_maps.

    Pages of files are left out: whoever read the file first has chosen their node.
    """
    pages: dict[str, int] = {}
    for line in numa_maps.splitlines():
        if " anon=" not in line:
            continue
        for node, count in re.findall(r" N(\d+)=(\d+)", line):
            pages[node] = pages.get(node, 0) + int(count)
    total = sum(pages.values())
    return {node: count / total for node, count in sorted(pages.items())} if total else {}


def allocator(maps: str) -> str | None:
    """The memory allocator that is loaded, from the text of /proc/self/maps; None where there is no text."""
    if not maps:
        return None
    return next((name for name in ALLOCATORS if f"lib{name}" in maps), "libc")


def _cpu_s(folder: Path) -> float:
    """CPU time of a thread: to the nanosecond where the kernel keeps it, otherwise in ticks of 10 ms."""
    exact = _read(folder / "schedstat").split()
    if exact:
        return int(exact[0]) / 1e9
    # The name in parentheses can hold spaces; what follows it is fixed: utime and stime are fields 14 and 15.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(\S+)", text, re.MULTILINE)
    return match[1] if match else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
