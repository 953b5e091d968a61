"""The jobs of a sweep before the first of them runs: how many, in which order, what each will be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.ask.check import resolve
from harness.ask.schema import Tracking, to_spec, to_tracking
from harness.values.errors import UserError
from harness.values.spec import RunSpec

# The sweeper that goes through all combinations. Another one decides on a job after those before it.
COMBINATIONS = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True)
class Job:
    """A job that is to come.

    name: of its folder, below the sweep's. contender: what was typed for it, if anything.
    """

    number: int
    name: str
    spec: RunSpec
    tracking: Tracking
    contender: str | None


def overrides(config: DictConfig) -> list[list[str]] | None:
    """The words of each job, as Hydra numbers them; None where it is not known before they run.

    config: Hydra's, when a sweep begins. Raises HydraException for words that Hydra refuses, too.
    """
    if config.hydra.sweeper.get("_target_") != COMBINATIONS:
        return None
    words = {each.get_key_element(): _words(each) for each in _parsed(config)}
    return [list(job) for job in itertools.product(*words.values())]


def swept(config: DictConfig) -> list[str]:
    """Names of what a sweep goes through: `precision`, `batch.size`."""
    return [each.get_key_element().lstrip("+") for each in _parsed(config) if each.is_sweep_override()]


def jobs(config: DictConfig) -> list[Job]:
    """The jobs of a sweep, composed as its launcher will.

    Raises:
        UserError: the sweeper decides on them one by one.
        HydraException, OmegaConfBaseException: one of them cannot be composed.
    """
    words = overrides(config)
    if words is None:
        sweeper = config.hydra.sweeper.get("_target_")
        raise UserError("hydra/sweeper", sweeper, "its jobs are not known before they run", "Leave it out")
    loader = GlobalHydra.instance().config_loader()
    found = []
    for number, each in enumerate(words):
        composed = loader.load_sweep_config(config, each)
        with open_dict(composed):
            composed.hydra.job.num = number
            composed.hydra.job.id = str(number)
        found.append(of_config(composed, number, str(composed.hydra.sweep.subdir)))
    return found


def of_config(composed: DictConfig, number: int = 0, name: str = ".") -> Job:
    """The job of a whole composed configuration, Hydra's part included. UserError for a wrong store, too."""
    task = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    contender = composed.hydra.runtime.choices.get("contender")
    return Job(number, name, resolve(to_spec(task)), to_tracking(task), contender)


def _parsed(config: DictConfig) -> list[Override]:
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return list(parser.parse_overrides([*params, *config.hydra.overrides.task]))


def _words(each: Override) -> list[str]:
    values = each.sweep_string_iterator() if each.is_sweep_override() else [each.get_value_element_as_str()]
    return [f"{each.get_key_element()}={value}" for value in values]
