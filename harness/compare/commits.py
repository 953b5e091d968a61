"""Two commits of the op, built and measured in turns by one and the same harness."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness.ask import inputs, schema
from harness.ask.arguments import quote_numbers, refuse_swept_repetitions
from harness.ask.check import check
from harness.ask.composing import paragraph
from harness.judge import repeated
from harness.judge.variants import Subject
from harness.run import repetitions
from harness.run.launch import launch
from harness.sinks import console as shown
from harness.values.errors import UserError
from harness.values.report import Report
from harness.values.spec import RunSpec

BUILDS = schema.ROOT / "outputs" / "builds"
LIBRARY = "libBertOpPT.so"
STANDARD_REPETITIONS = 10


class BuildError(Exception):
    """A revision could not be built; one paragraph."""


class MeasureError(Exception):
    """A build could not be measured; one paragraph."""


@dataclass(frozen=True)
class Build:
    """One revision, ready to be measured. op: folder that holds the package bert_op."""

    revision: str
    commit: str
    op: Path
    library: Path

    @property
    def worker(self) -> tuple[str, ...]:
        """Command that takes the path of a spec.json."""
        return (sys.executable, "-m", "harness.worker.of_build", str(self.op), str(self.library))


def measure(revisions: list[str], overrides: list[str], console: Console) -> list[Subject]:
    """Builds the revisions and measures them in turns; one subject for each.

    Reports stay below outputs/sweeps. The order within a round is reversed from one to the next, so that none
    is always the first.

    Raises:
        UserError: no such revision, or overrides that cannot be composed to one variant of backend=op.
        BuildError: a revision does not build.
        MeasureError: a process failed.
    """
    spec = to_spec(overrides)
    builds = [build(revision, commit(revision), console) for revision in revisions]
    folder = schema.ROOT / "outputs" / "sweeps" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-commits"
    console.print(
        f"{spec.repetitions} rounds of {spec.contender}, {spec.model.name} -> {shown.nearby(folder)}"
    )
    reports: dict[int, list[Report]] = {place: [] for place in range(len(builds))}
    for number in range(spec.repetitions):
        turn = list(enumerate(builds))
        for place, one in turn if number % 2 == 0 else reversed(turn):
            console.print(f"round {number + 1} of {spec.repetitions}: {one.revision}", highlight=False)
            here = folder / f"{place}-{one.commit[:12]}" / str(number)
            report = launch(repetitions.numbered(spec, number), here, one.worker)
            if report.failure is not None:
                raise MeasureError(f"{one.revision} could not be measured: {report.failure.message}")
            reports[place].append(report)
    return [
        Subject(f"{one.revision} = {one.commit[:12]}", repeated.merge(reports[place]))
        for place, one in enumerate(builds)
    ]


def to_spec(overrides: list[str]) -> RunSpec:
    """What to measure, of the words that `python -m harness` takes; ten repetitions by default."""
    schema.register()
    refuse_swept_repetitions(overrides)
    given = {override.partition("=")[0] for override in overrides}
    standard = {"repetitions": str(STANDARD_REPETITIONS), "measure": "throughput", "model": "minilm"}
    words = [f"{name}={value}" for name, value in standard.items() if name not in given] + overrides
    conf = schema.ROOT / "conf"
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            cfg = compose("config", quote_numbers(words, conf))
        spec = check(schema.to_spec(cfg))
        inputs.judge(spec)
    except (HydraException, OmegaConfBaseException) as problem:
        told = paragraph(str(problem)).removeprefix("error: ").rstrip(".")
        raise UserError("overrides", " ".join(overrides), told, "Sweeps are not possible here") from problem
    if spec.backend.name != "op":
        raise UserError("backend", spec.backend.name, "is the same for all commits", "Use backend=op")
    return spec


def commit(revision: str) -> str:
    """The full hash of a revision of this checkout. UserError where there is none."""
    done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode != 0:
        raise UserError("--commits", revision, "is no commit of this checkout", "git log names them")
    return done.stdout.strip()


def build(revision: str, full: str, console: Console) -> Build:
    """The op of a commit, built below outputs/builds once for each torch.

    A clone that shares this checkout's objects: the build then knows its own commit, and this checkout
    nothing of the clone.
    """
    folder = BUILDS / f"{full[:12]}-torch{metadata.version('torch')}"
    source, binary = folder / "source", folder / "build"
    done = Build(revision, full, source / "op", binary / LIBRARY)
    stamp = folder / "complete"
    if stamp.is_file() and done.library.is_file():
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console.print(f"building {revision} ({full[:12]}), a few minutes", highlight=False)
    log = folder / "build.log"
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(schema.ROOT), str(source)]
    _step(clone, log, revision)
    _step(["git", "-C", str(source), "checkout", "--quiet", "--detach", full], log, revision)
    tests = "-DBERT_OP_TESTS=OFF"
    configure = [_cmake(), "-S", str(source), "-B", str(binary), "-DBACKENDS=PT", tests]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    _step(configure, log, revision)
    _step([_cmake(), "--build", str(binary), "--parallel", str(os.cpu_count() or 1)], log, revision)
    if not done.library.is_file():
        raise BuildError(
            f"{revision} ({full[:12]}) built no {LIBRARY}; {shown.nearby(log)} says what it built."
        )
    stamp.touch()
    return done


def _step(command: list[str], log: Path, revision: str) -> None:
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        ).returncode
    if code != 0:
        lines = log.read_text(errors="replace").splitlines()
        told = [line for line in lines if "rror" in line] or lines
        raise BuildError(
            f"{revision} could not be built: {Path(command[0]).name} ended with {code}: "
            f"{' '.join(told[-1].split())} (all of it: {shown.nearby(log)})"
        )


def _cmake() -> str:
    """That of this environment before that of the machine."""
    beside = Path(sys.executable).with_name("cmake")
    found = str(beside) if beside.is_file() else shutil.which("cmake")
    if found is None:
        raise BuildError("cmake is not installed: pip install cmake ninja, or make run, which does.")
    return found


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=schema.ROOT, capture_output=True, text=True)
    except OSError as problem:
        raise BuildError(f"git cannot be run: {problem}") from problem
