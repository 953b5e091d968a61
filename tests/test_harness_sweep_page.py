"""sweep.html: one file that needs no other, whatever the names in it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from harness_fixtures import a_spec

from harness.sinks import files, sweep_page
from harness.values.report import Identity, Report, Timing

EVIL = "<script>alert('x')</script>"


def a_report(name: str, precision: str) -> Report:
    spec = a_spec(precision=precision)
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, name=name))
    timing = Timing(9, 1.0, 2, 8, {"p50": 10.0}, 200.0, 16.0)
    return Report(spec, "finished", timing=timing, identity=Identity(cpu="A <CPU>", torch="2.11"))


def test_the_page_holds_table_charts_and_environment_and_asks_for_nothing(tmp_path: Path) -> None:
    paths = files.write_sweep([a_report("tiny", "fp32"), a_report("tiny", "bf16")], tmp_path)
    text = (tmp_path / "sweep.html").read_text()
    assert text.count("<svg") == 2 and "<td>op-bf16</td>" in text and "<td>A &lt;CPU&gt;</td>" in text
    for asked in ("src=", "<link", "<script", "@import", "url(http", "<metadata"):
        assert asked not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert tmp_path / "sweep.html" in paths and tmp_path / "shootout.png" in paths


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    files.write_sweep([a_report(EVIL, "fp32"), a_report("--><b>", "bf16")], tmp_path)
    text = (tmp_path / "sweep.html").read_text()
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text


def test_what_was_not_observed_is_absent() -> None:
    report = Report(a_spec(), "failed")
    text = sweep_page.html("x", [["contender"], ["op-fp32"]], ["A note."], [], [report])
    assert "Environment" not in text and "<p>A note.</p>" in text
