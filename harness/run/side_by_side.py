"""Jobs of a sweep that run at the same time: none of them may disturb the timing of another.

On a machine that jobs share, their cores must differ; on a cluster, a timing job has its node for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, flag_override

from harness.values.cores import parse_cores
from harness.values.errors import UserError

# Launchers that start several jobs of a sweep at a time on this machine.
LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
}
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def arrange(config: DictConfig) -> None:
    """Makes Slurm give each timing job a node of its own, and refuses what cannot be timed.

    config: Hydra's, before the sweep begins; changed. Its additional_parameters.exclusive=false is respected.

    Raises:
        UserError: jobs would be timed while they share cores of this machine.
    """
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = [*params, *config.hydra.overrides.task]
    launcher = config.hydra.launcher
    check(launcher, overrides)
    if launcher.get("_target_") == SLURM and _timed(swept(overrides)):
        parameters = {"exclusive": True, **launcher.additional_parameters}
        if parameters["exclusive"] is False:  # sbatch knows no --exclusive=false
            del parameters["exclusive"]
        with flag_override(config, ["readonly", "struct"], False):
            launcher.additional_parameters = parameters


def check(launcher: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raises UserError if jobs of a sweep would be timed while they share cores.

    Args:
        launcher: Hydra's node `hydra.launcher`.
        overrides: the sweep's, as typed: `precision=fp32,bf16`, `host.cores="0-1","2-3"`.
    """
    name = LAUNCHERS.get(str(launcher.get("_target_")))
    if name is None or launcher.get("n_jobs") == 1:
        return
    choices = swept(overrides)
    if _timed(choices) and not disjoint(choices):
        raise UserError(
            "hydra/launcher", name,
            "its jobs run side by side on this machine, and timings of jobs that share cores mean nothing",
            'Sweep host.cores and nothing else, so that each job has its own (host.cores="0-3","4-7"), or '
            "set measure=accuracy, or leave hydra/launcher out so that the jobs run one after another",
        )  # fmt: skip


def _timed(choices: Mapping[str, Sequence[str]]) -> bool:
    if set(choices.get("measure", ["all"])) == {"accuracy"}:
        return False
    return choices.get("measure.throughput") != ["false"]


def swept(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The values of each override of a command line; a single value is a list of one."""
    return {
        each.get_key_element(): _values(each)
        for each in OverridesParser.create().parse_overrides(list(overrides))
    }


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str()).lower()]
    try:
        return [str(value) for value in override.sweep_string_iterator()]
    except HydraException:  # a glob: how many options it finds, only Hydra's loader knows
        return ["*", "*"]


def empty(overrides: Sequence[str]) -> list[str]:
    """Of the overrides of a sweep that has no job, those that may be why, as typed."""
    found = []
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        if not each.is_sweep_override():
            continue
        try:
            values = list(each.sweep_string_iterator())
        except HydraException:  # a glob
            values = []
        if not values:
            found.append(str(each.input_line))
    return found


def disjoint(choices: Mapping[str, Sequence[str]]) -> bool:
    """Whether no two jobs of a sweep over `choices` can share a core."""
    jobs = 1
    for values in choices.values():
        jobs *= len(values)
    if jobs == 1:
        return True
    for key, parse in (("host.numa", lambda text: [text]), ("host.cores", _cores)):
        values = list(choices.get(key, []))
        if len(values) == jobs:  # it is all that is swept
            used = [core for value in values for core in parse(value)]
            return "null" not in values and "all" not in values and len(used) == len(set(used))
    return False


def _cores(text: str) -> list[int]:
    text = text.strip("'\"")
    return [] if text in ("null", "all") else list(parse_cores(text))
