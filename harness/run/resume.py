"""`resume=true`: a sweep that was stopped goes on in its folder; what it has measured is kept.

A job is known by the folder it lies in, and kept where it finished under the very settings that it would have
now. A sweep whose settings changed is another sweep, and is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, flag_override

from harness.ask.schema import Tracking
from harness.run import earlier, plan, unfinished
from harness.sinks import mlflow_process, record
from harness.values.errors import UserError
from harness.values.report import REPORT_FILE, SPEC_FILE, Report
from harness.values.settings import SETTINGS, flat
from harness.values.spec import RunSpec

SETTING = "hydra.sweep.dir"
SAME = "Give the command line that it began with, or leave resume out"


@dataclass(frozen=True)
class Left:
    """What a stopped sweep has left. kept: folders of the jobs that finished. replaced: digests of the
    reports that will be measured anew, by which MLflow knows their runs.
    """

    sweep: record.Sweep
    kept: tuple[str, ...]
    replaced: tuple[str, ...]

    def goes_on(self, total: int, swept: Sequence[str]) -> record.Sweep:
        """The sweep of this process, the same one as before."""
        replaced = tuple(dict.fromkeys([*self.sweep.replaced, *self.replaced]))
        return dataclasses.replace(
            self.sweep, complete=None, problem=None, total=total, swept=tuple(swept), began=time.time(),
            resumed=True, kept=self.kept, replaced=replaced,
            owner=mlflow_process.own_tags(),
        )  # fmt: skip


def choose(config: DictConfig) -> bool:
    """Makes `hydra.sweep.dir` that of the sweep to go on with; False where there is none: a new one begins.

    A folder that the user names is meant. Without one it is the newest beside it that has the same overrides
    and did not come to its end. config: Hydra's, when a sweep begins; changed.
    """
    folder = Path(config.hydra.sweep.dir)
    given = any(str(each).partition("=")[0] == SETTING for each in config.hydra.overrides.hydra)
    if not given:
        found = _newest(folder.parent, _typed(config))
        if found is None:
            return False
        with flag_override(config, ["readonly", "struct"], False):
            config.hydra.sweep.dir = str(found)
            # Hydra composes each job anew, from these.
            config.hydra.overrides.hydra.append(f"{SETTING}={_quoted(str(found))}")
        return True
    return (folder / record.SWEEP_FILE).is_file()


def take_up(folder: Path, jobs: Sequence[plan.Job], tracking: Tracking) -> Left:
    """What the sweep in `folder` has of `jobs`.

    tracking: where the results would go now, without credentials.

    Raises:
        UserError: it goes on in another process, or what it measured would be measured otherwise now.
    """
    sweep = record.Sweep.read(folder)
    _refuse_running(folder, sweep)
    if tracking != sweep.tracking:
        raise _changed(f"its results went to {_store(sweep.tracking)}, and would go to {_store(tracking)}")
    for run in unfinished.marked(folder, 1):
        unfinished.settle(run)
    known = {folder / job.name for job in jobs}
    if beyond := [path.name for path in record.job_folders(folder) if path not in known]:
        raise _changed(f"it has a job {beyond[0]}, and this command line has {len(jobs)} jobs")
    finished, replaced = [], []
    for job in jobs:
        report, spec = _stored(folder / job.name)
        if spec is not None and (names := _different(spec, job.spec)):
            then, now = (
                _text(flat(one).get(names[0], getattr(one, names[0], None))) for one in (spec, job.spec)
            )
            raise _changed(f"{names[0]} of job {job.name} was {then}, and would be {now}")
        if report is not None and report.status == "finished":
            finished.append(job.name)
        elif report is not None:
            replaced.append(digest(folder / job.name))
    return Left(sweep, tuple(finished), tuple(replaced))


def kept(folder: Path, jobs: Sequence[plan.Job]) -> set[str]:
    """Folders of the jobs that `take_up` would keep; changes nothing, whatever it finds."""
    found = ((job, _stored(folder / job.name)[0]) for job in jobs)
    return {
        job.name
        for job, report in found
        if report is not None and report.status == "finished" and not _different(report.spec, job.spec)
    }


def digest(job: Path) -> str:
    """By which MLflow knows the report in a job's folder."""
    return hashlib.sha256((job / REPORT_FILE).read_bytes()).hexdigest()


def _newest(root: Path, typed: list[str]) -> Path | None:
    files = sorted(root.glob(f"*/{record.SWEEP_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        try:
            sweep = record.Sweep.read(file.parent)
            if sweep.complete is not True and typed == _typed(
                OmegaConf.load(file.parent / earlier.HYDRA_FILE)
            ):
                return file.parent
        except (OSError, ValueError, TypeError):  # of another version, or no sweep of ours
            continue
    return None


def _typed(config: object) -> list[str]:
    """The overrides of a sweep as they were typed, but for the wish to go on."""
    assert isinstance(config, DictConfig)
    words = [str(each) for each in config.hydra.overrides.task]
    return [word for word in words if word.partition("=")[0] != "resume"]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _refuse_running(folder: Path, sweep: record.Sweep) -> None:
    owner = sweep.owner
    if sweep.complete is not None or not owner:
        return
    here = owner.get(mlflow_process.HOST_TAG) == socket.gethostname()
    if not here or not mlflow_process.is_gone(owner.get(mlflow_process.PROCESS_TAG, "")):
        raise UserError(
            "resume", True,
            f"{folder} is still measured on {owner.get(mlflow_process.HOST_TAG)}, as far as is known here",
            "Wait for it",
        )  # fmt: skip


def _stored(job: Path) -> tuple[Report | None, RunSpec | None]:
    """The report of a job and its settings, as far as there are any."""
    try:
        report = Report.read(job)
        return report, report.spec
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (ValueError, TypeError) as problem:
        raise _changed(f"the report of job {job.name} cannot be read ({problem})") from problem
    try:
        return None, RunSpec.read(job / SPEC_FILE)
    except (OSError, ValueError, TypeError):
        return None, None


def _different(then: RunSpec, now: RunSpec) -> list[str]:
    """Names of the settings that are not the same."""
    old, new = flat(then), flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    unshown = [one.name for one in SETTINGS if not one.elsewhere.shown and one.elsewhere.by != "launch"]
    return [*names, *(name for name in unshown if getattr(then, name) != getattr(now, name))]


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _store(tracking: Tracking) -> str:
    return f"{tracking.uri}, experiment {tracking.experiment}" if tracking.kind == "mlflow" else "no store"


def _changed(problem: str) -> UserError:
    return UserError("resume", True, f"the sweep is not the one that began: {problem}", SAME)
