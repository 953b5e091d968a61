"""What ran, read back from the process itself: what was asked for is not always what was obtained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

from harness.values.cores import parse_cores
from harness.values.errors import UserError
from harness.values.report import Identity
from harness.values.spec import HostSpec, RunSpec
from harness.worker import backends, machine
from harness.worker.weights import Loaded

ROOT = Path(__file__).resolve().parents[2]

# Settings that change what is measured. Named one by one: the environment also holds what nobody may read.
ENVIRONMENT = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
    "KMP_BLOCKTIME", "LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF", "GLIBC_TUNABLES", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "BERT_OP_MAX_ISA", "BERT_OP_PT_LIB",
    "BERT_OP_PRECISION", "BERT_OP_SKIP_PADDING", "HF_HUB_OFFLINE",
)  # fmt: skip


def observe(spec: RunSpec) -> Identity:
    """The machine, the versions and the host settings in force. UserError when they are not those that were
    asked for: a number measured on other cores or threads than recorded is worse than none.
    """
    threads = torch.get_num_threads()
    affinity = tuple(sorted(os.sched_getaffinity(0)))
    _check_host(spec.host, threads, affinity)
    commit, dirty = checkout(ROOT)
    identity = Identity(
        git_commit=commit,
        git_dirty=dirty,
        cpu=machine.cpu_model(),
        isa=torch.backends.cpu.get_cpu_capability().lower(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
        threads=threads,
        affinity=affinity,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    )
    return dataclasses.replace(identity, fingerprint=fingerprint(identity))


def checkout(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout that `folder` is, and whether tracked files differ from it.

    Without git or a checkout, what the file `.commit` of the container image says; without that, None, None.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        note = folder / ".commit"
        commit, *changed = note.read_text().splitlines() if note.is_file() else [None]
        return (commit, bool(changed)) if commit else (None, None)
    return commit, bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def with_model(identity: Identity, loaded: Loaded) -> Identity:
    """With the origin of the weights and the task that is carried out."""
    return dataclasses.replace(
        identity, task=loaded.task, weights_source=loaded.source, weights_reason=loaded.reason
    )


def with_op(identity: Identity) -> Identity:
    """With the op's build and its tier; to be called when its library is loaded."""
    build: dict[str, Any] = json.loads(torch.ops.bert_op.build_info())
    return dataclasses.replace(identity, op_build=build, isa=build.get("isa"))


def with_backend(identity: Identity, spec: RunSpec) -> Identity:
    """With the versions of the packages that the backend is made of."""
    return dataclasses.replace(identity, packages=backends.versions(spec.backend.name))


def fingerprint(identity: Identity) -> str:
    """Hash of what has to be equal for two times to be comparable: processor, versions, tier of torch,
    threads, number of cores and settings of the environment.

    The op's tier and library are left out, so that op and Hugging Face on one machine stay comparable; which
    cores were used is left out, because instances and repetitions use different ones of the same kind.
    """
    op_settings = {name for name in identity.env if name.startswith("BERT_OP_")}
    parts = {
        "cpu": identity.cpu,
        "isa": identity.isa,
        "torch": identity.torch,
        "transformers": identity.transformers,
        "python": identity.python,
        "threads": identity.threads,
        "cores": len(identity.affinity),
        "env": {k: v for k, v in sorted(identity.env.items()) if k not in op_settings | {"HF_HUB_OFFLINE"}},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _check_host(host: HostSpec, threads: int, affinity: tuple[int, ...]) -> None:
    if host.threads is not None and host.threads != threads:
        raise UserError(
            "host.threads", host.threads, f"torch runs {threads} threads in the measured process",
            "Unset what else decides it, e.g. OMP_THREAD_LIMIT, or ask for that number",
        )  # fmt: skip
    if host.cores is not None and host.cores != "all" and not set(affinity) <= set(parse_cores(host.cores)):
        raise UserError(
            "host.cores", host.cores, f"the measured process may run on {','.join(map(str, affinity))}",
            "Start it through python -m harness, and unset what changes its affinity",
        )  # fmt: skip
