"""Where the measured process runs: cores and threads, decided before it starts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.spec import HostSpec

SYSTEM = Path("/sys/devices/system")
# Tracking belongs to the parent; MLFLOW_RUN_ID would even make a child resume the parent's run.
PRIVATE = ("MLFLOW_", "BERT_OP_TRACKING_", "BERT_OP_SWEEP")


@dataclass(frozen=True)
class Placement:
    """cores: CPUs that the process may use; None: those of its parent. threads: None is torch's choice."""

    cores: tuple[int, ...] | None
    threads: int | None


def plan(host: HostSpec, available: frozenset[int]) -> list[Placement]:
    """One placement for each instance, on disjoint cores when there are several.

    Args:
        host: settings of the run.
        available: CPUs that this process may use.
    """
    cores = _wanted_cores(host, available)
    if cores is None and host.instances == 1:
        return [Placement(None, host.threads)]
    cores = cores if cores is not None else one_per_core(available)
    share = len(cores) // host.instances
    if share < 1:
        raise UserError(
            "host.instances", host.instances, f"there are only {len(cores)} cores to share",
            f"Use at most {len(cores)}",
        )  # fmt: skip
    shares = [cores[index * share : (index + 1) * share] for index in range(host.instances)]
    return [Placement(part, host.threads if host.threads is not None else share) for part in shares]


def environment(placement: Placement, base: dict[str, str], root: Path) -> dict[str, str]:
    """Environment of the measured process: `base` without tracking, and what torch reads when it loads.

    `root` goes to the front of PYTHONPATH, so that the worker is the one beside this file in any directory.
    """
    kept = {name: value for name, value in base.items() if not name.startswith(PRIVATE)}
    path = [str(root), *filter(None, [base.get("PYTHONPATH")])]
    kept |= {"PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}
    if placement.threads is not None:
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(placement.threads))
    return kept


def parse_cores(text: str, setting: str = "host.cores") -> tuple[int, ...]:
    """CPU numbers of a list like `0-3,8`, the format of taskset and of /sys."""
    cores: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UserError(setting, text, "is no list of cores", "Use e.g. 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        cores.extend(range(first, last + 1))
    return tuple(dict.fromkeys(cores))


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
        return one_per_core(frozenset(parse_cores(file.read_text().strip(), "host.numa")) & available)
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
