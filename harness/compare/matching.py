"""Who is compared with whom: variants of several results find each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.judge import baseline
from harness.judge.variants import Subject
from harness.values.errors import UserError
from harness.values.settings import flat
from harness.values.spec import MeasureSpec, RunSpec, RunTimeSpec


def match(
    targets: list[list[Subject]], chosen: str | None = None
) -> tuple[list[tuple[Subject, Subject]], list[str]]:
    """Who is compared with whom, and sentences about those who found no partner.

    One target: its first variant is the baseline of the others. More: the first target's are the baseline of
    each other target's; several variants find each other by backend, precision, model and work, and where
    that leaves a choice, by all other settings.

    chosen: of one target, a contender or settings: each variant's baseline is then the closest one of these
        that does the same work, see harness/judge/baseline.py.
    Raises:
        UserError: there is nothing to compare.
    """
    first, *others = targets
    if chosen is not None:
        if others:
            remedy = "Name one sweep, or leave --baseline out"
            raise UserError("--baseline", chosen, "is for the variants of one sweep", remedy)
        return _within(first, chosen)
    if not others:
        if len(first) < 2:
            raise UserError(
                "results", first[0].source, "is one variant only", "Name a second run, or a sweep"
            )
        return [(first[0], other) for other in first[1:]], []
    found, alone = [], []
    for target in others:
        if len(first) == 1:
            found += [(first[0], other) for other in target]
            continue
        if len(target) == 1 and not any(same_variant(one, target[0]) for one in first):
            found += [(one, target[0]) for one in first]
            continue
        pairs = [(one, partner) for one, partner in partners(first, target) if partner is not None]
        found += pairs
        taken = {id(one) for pair in pairs for one in pair}
        alone += [
            f"{other.name} has no counterpart among the baseline's variants."
            for other in target
            if id(other) not in taken
        ]
        alone += [
            f"{one.name} has no counterpart in {target[0].source}." for one in first if id(one) not in taken
        ]
    if not found:
        raise UserError(
            "results", ", ".join(target[0].source for target in targets), "have no variant in common",
            "Name the folders of the two jobs that you mean",
        )  # fmt: skip
    return found, alone


def _within(variants: list[Subject], chosen: str) -> tuple[list[tuple[Subject, Subject]], list[str]]:
    baseline.check(chosen, [one.report.spec for one in variants])
    reports = [one.report for one in variants]
    found, alone = [], []
    for one in variants:
        other = baseline.of(one.report, reports, chosen)
        if other is None:
            alone.append(f"{one.name} has no baseline: none of {chosen} was measured on the same work.")
        elif other is not one.report:
            found.append((next(each for each in variants if each.report is other), one))
    if not found:
        raise UserError("--baseline", chosen, "leaves nothing to compare", "Name another one of the sweep")
    return found, alone


def partners(those: Sequence[Subject], measured: Sequence[Subject]) -> list[tuple[Subject, Subject | None]]:
    """Each variant of `those`, a baseline's, with its counterpart, or None where there is none.

    Where one side has several variants of one backend, precision, model and work, those are counterparts that
    are equal in all other settings too, or in those by which each side tells its own apart.
    """
    free = list(measured)
    found: list[tuple[Subject, Subject | None]] = []
    for one in those:
        alike = [other for other in free if same_variant(one, other)]
        namesakes = [other for other in those if same_variant(one, other)]
        if len(alike) > 1 or len(namesakes) > 1:
            alike = [other for other in alike if exactly(one, other)] or [
                other for other in alike if one.setting and one.setting == other.setting
            ]
        partner = alike[0] if alike else None
        free = [other for other in free if other is not partner]
        found.append((one, partner))
    return found


def same_variant(one: Subject, other: Subject) -> bool:
    """Whether they are the same backend, precision, model and work, whenever and however long measured."""
    return _key(one) == _key(other)


def exactly(one: Subject, other: Subject) -> bool:
    """Whether they are the same in every setting but how long and how often they were measured."""
    return _all(one.report.spec) == _all(other.report.spec)


def _key(subject: Subject) -> str:
    spec = subject.report.spec
    return str((spec.backend, spec.precision, spec.model.name, spec.batch, spec.load, spec.host.instances))


def _all(spec: RunSpec) -> dict[str, object]:
    found = flat(dataclasses.replace(spec, run_time=RunTimeSpec(), measure=MeasureSpec()))
    return {name: value for name, value in found.items() if name != "host.timeout_seconds"}
