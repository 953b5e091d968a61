"""Where the measured process runs: cores, threads, memory and allocator, decided before it starts and
compared with what /proc says of it afterwards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.run import own_op
from harness.values.cores import parse_cores
from harness.values.errors import UserError
from harness.values.report import Observed
from harness.values.spec import HostSpec

SYSTEM = Path("/sys/devices/system")
# Tracking belongs to the parent; MLFLOW_RUN_ID would even make a child resume the parent's run.
PRIVATE = ("MLFLOW_", "BERT_OP_TRACKING_", "BERT_OP_SWEEP")
# Where distributions put the libraries that replace malloc: the name without its ending, and its package.
LIBRARIES = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
PACKAGES = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4"}
# Of the process's own pages on host.numa's node: a few were there before the policy, or are shared.
MIN_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Placement:
    """cores: CPUs that the process may use; None: those of its parent. threads: None is torch's choice.

    preload: library that replaces malloc, or None. numa: node that its memory has to come from, or None.
    """

    cores: tuple[int, ...] | None
    threads: int | None
    preload: str | None = None
    numa: int | None = None


def plan(host: HostSpec, available: frozenset[int]) -> list[Placement]:
    """One placement for each instance, on disjoint cores when there are several.

    Args:
        host: settings of the run.
        available: CPUs that this process may use.
    """
    cores = _wanted_cores(host, available)
    preload = _library_of(host.allocator)
    if cores is None and host.instances == 1:
        return [Placement(None, host.threads, preload)]
    cores = cores if cores is not None else one_per_core(available)
    share = len(cores) // host.instances
    if share < 1:
        raise UserError(
            "host.instances", host.instances, f"there are only {len(cores)} cores to share",
            f"Use at most {len(cores)}",
        )  # fmt: skip
    shares = [cores[index * share : (index + 1) * share] for index in range(host.instances)]
    threads = host.threads if host.threads is not None else share
    return [Placement(part, threads, preload, host.numa) for part in shares]


def misplaced(host: HostSpec, placement: Placement, observed: Observed) -> UserError | None:
    """What of the settings did not take effect in the measured window, or None.

    Fewer threads than cores are an error only where their number was asked for: a small input may have no use
    for all of them.
    """
    if host.threads is not None and observed.threads != host.threads:
        return UserError(
            "host.threads", host.threads,
            f"{_threads(observed.threads)} did the work of the measured window",
            f"The backend ignores the setting or has no use for so many: try host.threads={observed.threads}",
        )  # fmt: skip
    if placement.cores is not None:
        wanted, cores = set(placement.cores), set(observed.cores)
        if cores - wanted or len(cores) < min(observed.threads, len(wanted)):
            return UserError(
                "host.cores", _listed(placement.cores),
                f"{_threads(observed.threads)} of the measured window could run on {_listed(observed.cores)}",
                "The backend sets an affinity of its own: unset what asks it to, e.g. OMP_PLACES",
            )  # fmt: skip
        if observed.threads > len(wanted) and host.threads is None:
            return UserError(
                "host.cores", _listed(placement.cores),
                f"{_threads(observed.threads)} shared {len(wanted)} cores in the measured window",
                "The backend ignores OMP_NUM_THREADS: set its own number of threads",
            )  # fmt: skip
    share = observed.memory_nodes.get(str(placement.numa), 0.0)
    if placement.numa is not None and observed.memory_nodes and share < MIN_MEMORY_SHARE:
        return UserError(
            "host.numa", placement.numa, f"only {share:.0%} of the process's memory is on this node",
            "Free memory there, or allow set_mempolicy (containers: --cap-add SYS_NICE)",
        )  # fmt: skip
    if host.allocator != "default" and observed.allocator not in (host.allocator, None):
        return UserError(
            "host.allocator", host.allocator, f"the measured process used {observed.allocator}",
            "Unset what else preloads a library",
        )  # fmt: skip
    return None


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number != 1 else ''}"


def _listed(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores))


def _library_of(allocator: str) -> str | None:
    if allocator == "default":
        return None
    names = (f"lib{allocator}.so*", f"lib{allocator}_minimal.so*")
    folders = [place for folder in LIBRARIES for place in (folder, *folder.glob("*-linux-gnu"))]
    found = sorted(path for folder in folders for name in names for path in folder.glob(name))
    if not found:
        raise UserError(
            "host.allocator", allocator, "its library is not installed", f"apt install {PACKAGES[allocator]}"
        )
    return str(found[0])


def environment(placement: Placement, base: dict[str, str], root: Path) -> dict[str, str]:
    """Environment of the measured process: `base` without tracking, and what torch reads when it loads.

    `root` goes to the front of PYTHONPATH, so that the worker is the one beside this file in any directory,
    and so is the op where it is built.
    """
    kept = {name: value for name, value in base.items() if not name.startswith(PRIVATE)}
    path = [str(root), *own_op.folders(root, base), *filter(None, [base.get("PYTHONPATH")])]
    kept |= {"PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}
    if placement.threads is not None:
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(placement.threads))
    if placement.preload is not None:
        kept["LD_PRELOAD"] = ":".join([placement.preload, *filter(None, [base.get("LD_PRELOAD")])])
    return kept


def one_per_core(cpus: frozenset[int]) -> tuple[int, ...]:
    """The lowest-numbered hardware thread of each physical core among `cpus`."""
    chosen: dict[str, int] = {}
    for cpu in sorted(cpus):
        siblings = SYSTEM / f"cpu/cpu{cpu}/topology/thread_siblings_list"
        chosen.setdefault(siblings.read_text() if siblings.is_file() else str(cpu), cpu)
    return tuple(sorted(chosen.values()))


def _wanted_cores(host: HostSpec, available: frozenset[int]) -> tuple[int, ...] | None:
    if host.numa is not None:
        file = SYSTEM / f"node/node{host.numa}/cpulist"
        if not file.is_file():
            raise UserError("host.numa", host.numa, "this machine has no such node", "lscpu lists its nodes")
        listed = file.read_text().strip()
        own = frozenset(parse_cores(listed, "host.numa") if listed else ()) & available
        if not own:
            raise UserError(
                "host.numa", host.numa, f"this process may use none of its cores ({listed or 'it has none'})",
                f"Choose the node of one of {','.join(map(str, sorted(available)))}",
            )  # fmt: skip
        return one_per_core(own)
    if host.cores is None:
        return None
    if host.cores == "all":
        return one_per_core(available)
    cores = parse_cores(host.cores)
    beyond = [core for core in cores if core not in available]
    if beyond:
        raise UserError(
            "host.cores", host.cores, f"this process may not use core {beyond[0]}",
            f"Choose from {','.join(map(str, sorted(available)))}",
        )  # fmt: skip
    return cores
