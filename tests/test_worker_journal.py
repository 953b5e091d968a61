"""The report on disk is always what has been measured so far."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_tools import run_spec

from harness.values.report import Phases, Report
from harness.values.spec import ModelSpec
from harness.worker.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, Report(spec=run_spec(ModelSpec("tiny"))))


def test_a_phase_is_on_disk_while_it_goes_on(journal: Journal) -> None:
    with journal.phase("load", "load_s"):
        assert Report.read(journal.folder).phase == "load"
        assert Report.read(journal.folder).status == "running"
    seconds = Report.read(journal.folder).phases.load_s
    assert seconds is not None and 0 <= seconds < 5


def test_durations_add_up_in_the_unit_of_their_field(journal: Journal) -> None:
    journal.add_duration("import_s", 1.5)
    journal.add_duration("import_s", 0.5)
    journal.add_duration("cold_ms", 0.25)
    assert Report.read(journal.folder).phases == Phases(import_s=2.0, cold_ms=250.0)


def test_a_failure_keeps_what_was_there(journal: Journal) -> None:
    journal.add_duration("load_s", 1.0)
    with pytest.raises(ValueError, match="boom"), journal.phase("pack", "pack_s"):
        raise ValueError("boom")
    journal.fail("error", "ValueError: boom")
    report = Report.read(journal.folder)
    assert (report.status, report.phases.load_s, report.phases.pack_s) == ("failed", 1.0, None)
    assert report.failure is not None
    assert (report.failure.kind, report.failure.message, report.failure.phase) == (
        "error",
        "ValueError: boom",
        "pack",
    )


def test_a_finished_report_has_no_phase(journal: Journal) -> None:
    with journal.phase("measure"):
        pass
    journal.finish()
    report = Report.read(journal.folder)
    assert (report.status, report.phase, report.failure) == ("finished", None, None)
