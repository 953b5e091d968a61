"""The table of settings: complete, and the same wherever a setting is met again."""

from __future__ import annotations

import dataclasses

import pytest
from harness_fixtures import a_spec

from harness.ask.schema import GROUPS
from harness.sinks import columns
from harness.sinks import mlflow_values as mlflow
from harness.values import settings
from harness.values.report import Report
from harness.values.spec import HostSpec, LoadSpec, ModelSpec


def test_every_setting_of_a_spec_is_there_once_and_has_a_meaning() -> None:
    names = [setting.name for setting in settings.SETTINGS]
    assert len(set(names)) == len(names)
    assert {"seed", "barrier", "model.architecture", "run_time.warmup_seconds"} <= set(names)
    without = {setting.name for setting in settings.SETTINGS if not setting.meaning}
    assert without == {"precision"}, "its options say what it is"
    assert all(settings.of(name).name in names for name in settings.flat(a_spec()))


def test_what_is_said_elsewhere_is_said_of_a_setting_or_a_group() -> None:
    """A misspelt name would say nothing of anything."""
    names = {setting.name for setting in settings.SETTINGS}
    assert set(settings.ELSEWHERE) <= names | set(GROUPS)


def test_columns_that_tell_a_setting_are_columns_of_a_table() -> None:
    titles = {column.title for column in (columns.CONTENDER, *columns.SETTINGS)}
    told = {title for setting in settings.SETTINGS for title in setting.elsewhere.columns}
    assert told == titles


def test_no_two_settings_share_a_param() -> None:
    spec = a_spec(load=LoadSpec("server", rate=1.0))
    own = [setting.elsewhere.param for setting in settings.SETTINGS]
    named = [param for param in own if param not in ("dotted", None)]
    assert len(set(named)) == len(named)
    assert set(named) <= set(mlflow.params(Report(spec)))


def test_an_entry_of_a_dictionary_is_met_where_its_setting_is() -> None:
    assert settings.of("model.package_files.config.json").elsewhere.param is None
    assert settings.of("model.architecture.hidden_size").name == "model.architecture"
    with pytest.raises(KeyError):
        settings.of("batch.sise")


def test_what_the_harness_sets_itself_tells_no_jobs_apart() -> None:
    spec = a_spec(repetitions=3, repetition=1, instance=1, barrier="/x")
    assert settings.flat(spec) == settings.flat(a_spec())
    assert settings.flat(spec) != settings.flat(dataclasses.replace(spec, seed=1))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("batch.seq_len", "seq_len"),
        ("data.path", "data.path"),
        ("run_time.seconds", "run_time.seconds"),
        ("model.architecture.hidden_size", "hidden_size"),
    ],
)
def test_a_title_is_as_short_as_it_can_be(name: str, title: str) -> None:
    assert settings.title(name) == title


def test_a_docstring_has_words_before_entries_and_words_behind() -> None:
    before, meanings, behind = settings.described(HostSpec)
    assert before.startswith("Where the measured process runs") and "/proc" in behind
    assert list(meanings) == [field.name for field in dataclasses.fields(HostSpec)]
    assert "\n" not in "".join(settings.described(ModelSpec)[1].values())
