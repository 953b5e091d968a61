"""What the documentation points at exists, and the commands it prints can be composed."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from harness.ask.arguments import quote_numbers
from harness.ask.schema import register

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("harness/data/*.md")])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[str]:
    """The `python -m harness` lines of all pages and of the opening comments in conf/, each once."""
    found: dict[str, None] = {}
    for page in [*PAGES, *sorted((ROOT / "conf").rglob("*.yaml"))]:
        for match in re.findall(r"python -m harness (?!\[|--)([^`\n]*)", page.read_text()):
            if "NAME" in match or "group=" in match:
                continue
            found[re.split(r"\s{2,}|\s#", match)[0].strip()] = None
    return sorted(found)


def one_job(argument: str) -> str:
    """The first choice of a sweep's argument: `batch=1,4` -> `batch=1`."""
    name, _, value = argument.partition("=")
    return f"{name}={'fp32' if value == 'glob(*)' else value.split(',')[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_there_are_commands():
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_printed_commands_compose(command):
    words = [word for word in shlex.split(command) if not word.startswith("-")]
    # Launchers come with extras that need not be installed, and tiny is in a package that a test makes.
    words = [
        word
        for word in words
        if "<" not in word and not word.startswith(("hydra/launcher", "hydra.launcher", "backend=tiny"))
    ]
    overrides = [one_job(word) for word in words]
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("config", overrides=quote_numbers(overrides, ROOT / "conf"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)\b", page.read_text(), re.MULTILINE))
    assert not named - targets
