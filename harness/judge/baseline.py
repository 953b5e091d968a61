"""Who the speed-up of a job is against: a contender, or whatever some settings name, under the same work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.values.errors import UserError
from harness.values.report import Report
from harness.values.settings import flat
from harness.values.spec import RunSpec

# The contender that speed-ups are against where nobody chose: Hugging Face as it is.
PLAIN = "hf-fp32"
CONTENDER = "contender"
# What a contender is; everything else is the work, and the same for both sides.
OF_A_CONTENDER = ("backend.", "precision", "target")
# Settings of how a job is measured, not of what it does.
NOT_WORK = ("host.timeout_seconds",)


def wanted(text: str) -> dict[str, str]:
    """`hf-bf16` or `precision=fp32 batch.size=4` as settings and values; a bare word is a contender.

    Raises:
        UserError: a part is no setting with a value.
    """
    parts = [part for part in text.replace(",", " ").split() if part]
    found = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not name or (equals and not value) or (not equals and len(parts) > 1):
            raise _wrong(text, f"{part} is no setting with a value")
        found[name if equals else CONTENDER] = value if equals else part
    if not found:
        raise _wrong(text, "names nothing")
    return found


def check(text: str, specs: Sequence[RunSpec]) -> None:
    """UserError where `text` names none of `specs`, with what it could name."""
    chosen = wanted(text)
    for name in chosen:
        if name != CONTENDER and all(_setting(name, spec) is None for spec in specs):
            raise _wrong(text, f"{name} is no setting")
    if not any(_is(spec, chosen) for spec in specs):
        there = ", ".join(dict.fromkeys(spec.contender for spec in specs))
        raise UserError(
            "baseline", text, "is none of the sweep's jobs",
            f"Name one of {there}, or settings as in precision=fp32, or add it to the sweep",
        )  # fmt: skip


def of(report: Report, reports: Sequence[Report], text: str | None = None) -> Report | None:
    """The job of `reports` that `report` is compared with; None where there is none.

    It does the same work, but for what `text` names, and of several that do it is the one that differs in the
    fewest settings. text: a contender or settings; None for Hugging Face, its fp32 where that was measured,
    and where nothing of it was, fp32 if the sweep has other precisions too.
    """
    timed = [other for other in reports if other.timing is not None]
    if text is not None:
        chosen = wanted(text)
        alike = [other for other in timed if _is(other.spec, chosen) and _same_work(report, other, chosen)]
        return min(alike, key=lambda other: _distance(report.spec, other.spec), default=None)
    alike = [other for other in timed if _same_work(report, other, {})]
    of_hf = [other for other in alike if other.spec.backend.name == "hf"]
    if of_hf:
        return min(of_hf, key=_from_plain)
    if len({other.spec.precision for other in timed}) < 2:
        return None
    plain = [other for other in alike if other.spec.precision == "fp32"]
    return min(plain, key=lambda other: _distance(report.spec, other.spec), default=None)


def _is(spec: RunSpec, chosen: dict[str, str]) -> bool:
    return all(
        spec.contender == value if name == CONTENDER else _text(spec, name) == value
        for name, value in chosen.items()
    )


def _same_work(one: Report, other: Report, chosen: dict[str, str]) -> bool:
    free = {_setting(name, one.spec) for name in chosen}
    groups = tuple(f"{name}." for name in chosen)
    first, second = flat(one.spec), flat(other.spec)
    return one.spec.repetition == other.spec.repetition and all(
        first.get(name) == second.get(name)
        for name in {**first, **second}
        if name not in free and not name.startswith((*OF_A_CONTENDER, *NOT_WORK, *groups))
    )


def _distance(one: RunSpec, other: RunSpec) -> int:
    first, second = flat(one), flat(other)
    return sum(first.get(name) != second.get(name) for name in {**first, **second})


def _from_plain(report: Report) -> tuple[bool, bool]:
    """Smallest for Hugging Face as it is: fp32, not captured as a graph."""
    return report.spec.precision != "fp32", report.spec.backend.graph != "eager"


def _setting(name: str, spec: RunSpec) -> str | None:
    """The setting that `name` means: itself, or what names the option of a group."""
    known = flat(spec)
    return next((each for each in (name, f"{name}.name", f"{name}.size") if each in known), None)


def _text(spec: RunSpec, name: str) -> str | None:
    """A setting's value as it is typed; None where there is none of this name."""
    found = _setting(name, spec)
    if found is None:
        return None
    value: Any = flat(spec)[found]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _wrong(text: str, why: str) -> UserError:
    return UserError(
        "baseline", text, why, "Name a contender, as in hf-fp32, or settings, as in precision=fp32"
    )
