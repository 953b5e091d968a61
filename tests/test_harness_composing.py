"""What cannot be composed is told in one paragraph."""

from __future__ import annotations

import sys

import pytest

from harness.ask.composing import Held, paragraph

OPTION = """In 'config': Could not find 'precision/fp99'

Available options in 'precision':
\tbf16
\tfp32
Config search path:
\tprovider=hydra, path=pkg://hydra.conf

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
VALUE = """Error merging override batch.size=abc
Value 'abc' of type 'str' could not be converted to Integer
    full_key: batch.size
"""
FIELD = """Could not override 'batch.sizes'.
To append to your config use +batch.sizes=3
Key 'sizes' not in 'BatchSpec'
"""
OTHER = """Error parsing override 'batch.size'
missing EQUAL at '<EOF>'
See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details
"""


@pytest.mark.parametrize(
    ("said", "setting", "remedy"),
    [
        (OPTION, "precision=fp99:", "Choose one of bf16, fp32."),
        (VALUE, "batch.size=abc:", "Give a whole number."),
        (FIELD, "batch.sizes=3:", "--help"),
        (OTHER, "'batch.size'", "--help"),
    ],
    ids=["option", "value", "field", "other"],
)
def test_one_line_names_the_setting_and_the_remedy(said: str, setting: str, remedy: str) -> None:
    told = paragraph(said)
    assert "\n" not in told
    assert told.startswith("error: ")
    assert setting in told
    assert remedy in told


def test_what_was_held_is_written_once_composing_worked(capsys: pytest.CaptureFixture[str]) -> None:
    held = Held()
    with held.holding():
        print("a warning", file=sys.stderr)
        assert capsys.readouterr().err == ""
        held.release()
        print("what follows", file=sys.stderr)
    assert capsys.readouterr().err == "a warning\nwhat follows\n"
    assert held.take() == ""
