"""What this machine and environment are, for `python -m bert_op` and the bug reports that begin with it."""

from __future__ import annotations

import operator
import os
import platform
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path, PurePosixPath

import torch

from bert_op._families import FAMILIES
from bert_op._library import PATH_VARIABLE, TIER_VARIABLE, build_info, loaded_from
from bert_op._policy import FOLLOWS, current_policy
from bert_op._seam import SUPPORTED, BertOpWarning, UnexpectedSeam, too_old

_CPUINFO = Path("/proc/cpuinfo")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")

_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Machine:
    """What bert_op runs on and as.

    Attributes:
        version, commit, dirty: what the library was built from; `dirty` if files were changed since.
        cpu: its name; None where the system tells none.
        tier, tier_best, tier_cap: the one in use, the best one of this CPU, and `BERT_OP_MAX_ISA` if set.
        bf16_instructions: whether the tier in use multiplies bf16 itself, not in fp32 after widening.
        cores, cores_affinity: how many the machine has and how many this process may run on.
        cores_quota: how many cores' worth of time its container may take; None without a limit.
        threads, threads_op: how many torch computes with, and the operator: no more than affinity and quota
            allow.
        python, torch, transformers: versions; None where transformers is not installed.
        transformers_range: the versions that bert_op asks for, and `transformers_fits` whether this is one of
            them; None where bert_op was not installed by pip, so that nothing says it.
        library, library_from: its path, and whose it is.
        families: the names of those whose models run the operator; `families_left`: why others do not.
        precision, skip_padding: of models that are created now.
    """

    version: str
    commit: str
    dirty: bool
    cpu: str | None
    tier: str
    tier_best: str
    tier_cap: str | None
    bf16_instructions: bool
    cores: int
    cores_affinity: int
    cores_quota: float | None
    threads: int
    threads_op: int
    python: str
    torch: str
    transformers: str | None
    transformers_range: str | None
    transformers_fits: bool | None
    library: str | None
    library_from: str
    families: tuple[str, ...]
    families_left: dict[str, str]
    precision: str
    skip_padding: object


def this_machine() -> Machine:
    """Look at it all. Imports Hugging Face's modules of every family, which takes seconds.

    Raises:
        LibraryError: the library cannot be used.
    """
    info, policy = build_info(), current_policy()
    transformers = _version_of("transformers")
    asked_for = _range_of("transformers", SUPPORTED)
    families, left = _families(transformers)
    return Machine(
        version=info["version"],
        commit=info["commit"],
        dirty=info["dirty"],
        cpu=cpu_name(_read(_CPUINFO)),
        tier=info["isa"],
        tier_best=info["isa_detected"],
        tier_cap=os.environ.get(TIER_VARIABLE),
        bf16_instructions=info["isa"] == "amx" or bool(info.get("avx512_bf16")),
        cores=os.cpu_count() or 1,
        cores_affinity=len(os.sched_getaffinity(0)),
        cores_quota=cpu_quota(_read(_OWN_CGROUPS), _CGROUPS),
        threads=torch.get_num_threads(),
        threads_op=torch.ops.bert_op.threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers,
        transformers_range=asked_for,
        transformers_fits=_fits(transformers, asked_for),
        library=loaded_from(),
        library_from=_origin(),
        families=families,
        families_left=left,
        precision=policy.precision or FOLLOWS,
        skip_padding=policy.skip_padding,
    )


def cpu_name(cpuinfo: str) -> str | None:
    """From the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return None


def cpu_quota(own_cgroups: str, root: Path) -> float | None:
    """How many cores' worth of time the process may take by its control groups, or None without a limit.

    A group may take no more than any group that it is in, so the least of them counts.

    Args:
        own_cgroups: the text of /proc/self/cgroup.
        root: where the control groups are mounted, of version 2, 1 or both.
    """
    quotas = []
    for line in own_cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, which has one tree for everything
            for group in (*_groups(root, path), *_groups(root / "unified", path)):
                quotas.append(_ratio(*_read(group / "cpu.max").split()))
        elif "cpu" in controllers.split(","):
            for group in (*_groups(root / controllers, path), *_groups(root / "cpu", path)):
                quotas.append(_ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(tree: Path, path: str) -> Iterator[Path]:
    """The groups from the root of a tree to the process's own. In a container the path can be one of the host
    of which the tree shows only the root: what is not there is not read."""
    yield tree
    names = PurePosixPath(path).parts[1:]
    if ".." not in names:
        for depth in range(len(names)):
            yield tree.joinpath(*names[: depth + 1])


def _ratio(quota: str = "", period: str = "") -> float | None:
    """`max` or -1: no limit."""
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _families(transformers: str | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """The families that are substituted, and why others are not, found by importing them."""
    if transformers is None:
        return (), {family.name: "transformers is not installed" for family in FAMILIES}
    if reason := too_old():
        return (), {family.name: reason for family in FAMILIES}
    substituted, left = [], {}
    for family in FAMILIES:
        with warnings.catch_warnings():  # what they would say is the reason here
            warnings.simplefilter("ignore", BertOpWarning)
            try:
                encoder = getattr(import_module(family.module), family.encoder_name)
                _ = family.seam
            except (ImportError, AttributeError, UnexpectedSeam) as error:
                left[family.name] = str(error).splitlines()[0]
                continue
        if "family" in vars(encoder):
            substituted.append(family.name)
        else:
            left[family.name] = "Hugging Face's own class is in its place"
    return tuple(substituted), left


def _origin() -> str:
    if loaded_from() is None:
        return "loaded by the process before bert_op was imported"
    if os.environ.get(PATH_VARIABLE):
        return PATH_VARIABLE
    checkout = Path(__file__).resolve().parents[2]
    return f"the checkout {checkout}" if (checkout / "CMakeLists.txt").is_file() else "installed"


def _version_of(distribution: str) -> str | None:
    if util.find_spec(distribution) is None:
        return None
    return str(import_module(distribution).__version__)


def _range_of(distribution: str, otherwise: str) -> str | None:
    """What the installed bert_op asks for of another distribution, such as `<6,>=5.20`; `otherwise` where it
    is used from a checkout."""
    try:
        requirements = metadata.requires("bert-op") or []
    except metadata.PackageNotFoundError:
        return otherwise
    for requirement in requirements:
        requirement, _, condition = requirement.partition(";")
        if requirement.startswith(distribution) and not condition:
            return requirement[len(distribution) :].strip()
    return None


def _fits(version: str | None, asked_for: str | None) -> bool | None:
    """Whether a version keeps all bounds, such as `<6,>=4.56`; None where that cannot be told."""
    bounds = [re.fullmatch(r"([<>=!]=?)\s*([\d.]+)", bound.strip()) for bound in (asked_for or "").split(",")]
    if version is None or None in bounds:
        return None
    found = _numbers(version)
    return all(_COMPARISONS[bound[1]](found, _numbers(bound[2])) for bound in bounds if bound)


def _numbers(version: str) -> tuple[int, ...]:
    """The first three: a preview is taken for what it is a preview of."""
    return tuple(map(int, [*re.findall(r"\d+", version), "0", "0"][:3]))


def _read(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
