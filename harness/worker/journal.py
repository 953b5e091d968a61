"""The report as it grows: on disk after every phase, so whatever ends the process takes nothing with it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.values import reserve
from harness.values.report import Failure, Report


class Journal:
    """Holds the newest Report of one run and keeps `<folder>/report.json` equal to it."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder = folder
        self.report = report
        self._write()

    def record(self, **changes: Any) -> None:
        """Replaces fields of the report."""
        self.report = dataclasses.replace(self.report, **changes)
        self._write()

    def _write(self) -> None:
        reserve.written(self.folder, lambda: self.report.write(self.folder))

    @contextmanager
    def phase(self, name: str, duration: str | None = None) -> Iterator[None]:
        """Says on disk that `name` is going on; afterwards adds its length to the field `duration` of Phases,
        in the unit that the field's name ends with (`_s` or `_ms`).
        """
        self.record(phase=name)
        begin = time.perf_counter()
        yield
        if duration is not None:
            self.add_duration(duration, time.perf_counter() - begin)

    def add_duration(self, duration: str, seconds: float) -> None:
        """Adds `seconds` to a field of Phases."""
        value = seconds * 1e3 if duration.endswith("_ms") else seconds
        before = getattr(self.report.phases, duration) or 0.0
        self.record(phases=dataclasses.replace(self.report.phases, **{duration: before + value}))

    def fail(self, kind: str, message: str) -> None:
        """Ends the report as a failed one, in the phase that is going on."""
        self.record(status="failed", failure=Failure(kind=kind, message=message, phase=self.report.phase))

    def finish(self) -> None:
        """Ends the report as a complete one."""
        self.record(status="finished", phase=None)
