"""The reference page is what the schemas and conf/ say now."""

import dataclasses

from harness.ask.reference import page
from harness.ask.schema import GROUPS, ROOT, SPECS


def test_the_committed_page_is_current():
    committed = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m harness.ask.reference > docs/reference.md"


def test_every_group_and_option_is_there():
    text = page()
    for group in GROUPS:
        assert f"## `{group}`" in text
    for option in (ROOT / "conf").glob("*/*.yaml"):
        if option.parent.name != "hydra":
            assert f"| `{option.stem}` |" in text, option


def test_every_field_has_a_meaning():
    sections = {text.split("`")[0]: text for text in page().split("## `")}
    for group, spec in SPECS.items():
        for field in dataclasses.fields(spec):
            assert f"- `{field.name}`: " in sections[group], f"{group}.{field.name}"
    of_no_group = page().split("## Fields of no group")[1]
    assert "- `seed`: " in of_no_group and "- `repetitions`: " in of_no_group
    assert "- `barrier`: " not in of_no_group, "it is set by the harness"


def test_fields_come_with_type_and_default():
    assert "| `batch.seq_len` | int | `128` |" in page()
    assert "| `host.threads` | int or None | `null` |" in page()
