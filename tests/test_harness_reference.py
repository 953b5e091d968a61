"""The reference page is what the schemas and conf/ say now."""

from harness.reference import page
from harness.schema import GROUPS, ROOT


def test_the_committed_page_is_current():
    committed = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m harness.reference > docs/reference.md"


def test_every_group_and_option_is_there():
    text = page()
    for group in GROUPS:
        assert f"## `{group}`" in text
    for option in (ROOT / "conf").glob("*/*.yaml"):
        if option.parent.name != "hydra":
            assert f"| `{option.stem}` |" in text, option


def test_fields_come_with_type_and_default():
    assert "| `batch.seq_len` | int | `128` |" in page()
    assert "| `host.threads` | int or None | `null` |" in page()
