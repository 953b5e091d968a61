"""`repetitions=10`: the same measurement in ten fresh processes.

Processes of one program differ by more than their own samples show: memory lies elsewhere, the machine
drifts. So the process is what is repeated, and the variants of a sweep take turns: all of them once, then all
of them again. Their results as one: harness/judge/repeated.py.
"""

from __future__ import annotations

import dataclasses

from omegaconf import DictConfig, flag_override

from harness.values.spec import RunSpec


def expand(config: DictConfig) -> None:
    """Makes the repetitions the slowest axis of a sweep. config: Hydra's, before the sweep begins; changed.

    Hydra's sweeper takes its parameters in order, the first of them varying slowest.
    """
    count = config.repetitions
    if count > 1:
        with flag_override(config, ["readonly", "struct"], False):
            before = config.hydra.sweeper.params or {}
            config.hydra.sweeper.params = {"repetition": ",".join(map(str, range(count))), **before}


def numbered(spec: RunSpec, number: int) -> RunSpec:
    """The spec of repetition `number`."""
    return dataclasses.replace(spec, repetition=number)
