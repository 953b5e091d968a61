"""Two variants against each other: what differs, whether that may be compared, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.judge import processes
from harness.judge.variants import Subject
from harness.judge.variants import processes as processes_of
from harness.values import estimates
from harness.values.plain import to_plain
from harness.values.report import Report
from harness.values.settings import UNSHOWN

NOT_COMPARABLE = "not comparable"
# Of RunSpec: what is the same work. The rest is what one compares.
WORK = ("batch", "load")
UNTOLD = (*UNSHOWN, "seed", "host.timeout_seconds")
# Of Identity, what the fingerprint is made of. Another backend may bring its own software.
MACHINE = ("cpu", "threads")
SOFTWARE = ("torch", "transformers", "python")


@dataclass(frozen=True)
class Difference:
    """A setting, or an observed property of what ran, that is not the same for both."""

    setting: str
    baseline: str
    candidate: str


@dataclass(frozen=True)
class Answers:
    """Decisions on the same labelled pairs.

    only_*: pairs that only this one got right. p_value: McNemar's, exact.
    """

    samples: int
    baseline_accuracy: float
    candidate_accuracy: float
    only_baseline: int
    only_candidate: int
    agreement: float
    p_value: float


@dataclass(frozen=True)
class Pair:
    """The result. verdict: that of `speed`, or `not comparable`, then `because` says why (ratios are still
    given where both have latencies). *_ms: median latency; *_calls: those of all processes. cautions:
    sentences without which it could mislead.
    """

    baseline: str
    candidate: str
    differences: tuple[Difference, ...]
    verdict: str
    because: tuple[str, ...]
    speed: processes.Comparison | None
    baseline_ms: float | None
    candidate_ms: float | None
    baseline_calls: int | None
    candidate_calls: int | None
    answers: Answers | None
    cautions: tuple[str, ...]


def compare(
    baseline: Subject,
    candidate: Subject,
    *,
    confidence: float = processes.CONFIDENCE,
    smallest: float = processes.SMALLEST,
) -> Pair:
    """Judges `candidate` against `baseline`."""
    one, other = baseline.report, candidate.report
    sides = processes_of(one), processes_of(other)
    speed = processes.compare(*sides, confidence=confidence, smallest=smallest) if all(sides) else None
    because = obstacles(one, other)
    return Pair(
        baseline=baseline.name,
        candidate=candidate.name,
        differences=differences(one, other),
        verdict=NOT_COMPARABLE if because or speed is None else speed.verdict,
        because=because,
        speed=speed,
        baseline_ms=one.timing.latency_ms["p50"] if one.timing else None,
        candidate_ms=other.timing.latency_ms["p50"] if other.timing else None,
        baseline_calls=one.timing.count if one.timing else None,
        candidate_calls=other.timing.count if other.timing else None,
        answers=answers(baseline, candidate),
        cautions=(*_two_of_one_name(one, other), *_cautions(one, other)),
    )


def differences(one: Report, other: Report) -> tuple[Difference, ...]:
    """Settings that differ, then observed properties that do."""
    first, second = _flat(one), _flat(other)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return tuple(Difference(name, _told(first.get(name)), _told(second.get(name))) for name in names)


def obstacles(one: Report, other: Report) -> tuple[str, ...]:
    """Why the two latencies must not be compared; empty when they may be."""
    found = []
    for side, report in (("baseline", one), ("candidate", other)):
        if report.timing is None:
            why = f": {report.failure.message}" if report.failure is not None else ""
            found.append(f"the {side} has no latencies{why}")
    if (
        one.spec.model.name != other.spec.model.name
        or one.spec.model.architecture != other.spec.model.architecture
    ):
        found.append(f"another model: {one.spec.model.name} and {other.spec.model.name}")
    elif (sizes := _sizes(one, other)) is not None:  # two folders may have the same name
        weights = f"{sizes[0]:.6g} and {sizes[1]:.6g} MB of weights"
        found.append(f"another model: {one.spec.model.name} with {weights}")
    for part in WORK:
        first, second = to_plain(getattr(one.spec, part)), to_plain(getattr(other.spec, part))
        unequal = [f"{part}.{k} {first[k]} and {second[k]}" for k in first if first[k] != second[k]]
        if unequal:
            found.append(f"other work: {', '.join(unequal)}")
    if one.spec.batch.tokens == "text" and one.spec.data != other.spec.data:
        found.append(f"other texts: data {one.spec.data.name} and {other.spec.data.name}")
    if one.spec.load.name == "server" and one.spec.load.rate is None:
        found.append("load=server searched a rate for each, so their latencies belong to different rates")
    if one.spec.host.instances != other.spec.host.instances:
        found.append(f"host.instances {one.spec.host.instances} and {other.spec.host.instances}")
    return (*found, *_environments(one, other))


def _sizes(one: Report, other: Report) -> tuple[float, float] | None:
    """In 1e6 bytes of the weights as they were loaded, in fp32; None where equal or not both are known."""
    first, second = one.memory.weights_mb, other.memory.weights_mb
    return None if first is None or second is None or first == second else (first, second)


def answers(baseline: Subject, candidate: Subject) -> Answers | None:
    """Accuracy of both on the samples of both; None unless they scored the same ones."""
    first, second = baseline.predictions, candidate.predictions
    if not first or [(r["index"], r["label"]) for r in first] != [(r["index"], r["label"]) for r in second]:
        return None
    digests = [s.report.accuracy.data_digest for s in (baseline, candidate) if s.report.accuracy is not None]
    if len(set(digests)) > 1:
        return None
    right = [[row["decision"] == row["label"] for row in rows] for rows in (first, second)]
    only = [sum(a and not b for a, b in zip(x, y, strict=True)) for x, y in (right, right[::-1])]
    return Answers(
        samples=len(first),
        baseline_accuracy=sum(right[0]) / len(first),
        candidate_accuracy=sum(right[1]) / len(first),
        only_baseline=only[0],
        only_candidate=only[1],
        agreement=estimates.agreement([r["decision"] for r in first], [r["decision"] for r in second]),
        p_value=estimates.mcnemar_exact(*only),
    )


def _environments(one: Report, other: Report) -> list[str]:
    first, second = one.identity, other.identity
    if first.fingerprint == second.fingerprint:
        return []
    fields = MACHINE if one.spec.backend.name != other.spec.backend.name else MACHINE + SOFTWARE
    unequal = [
        f"{name} {getattr(first, name)} and {getattr(second, name)}"
        for name in fields
        if getattr(first, name) != getattr(second, name)
    ]
    if len(first.affinity) != len(second.affinity):
        unequal.append(f"{len(first.affinity)} and {len(second.affinity)} cores")
    environment = [_outer(report) for report in (one, other)]
    unequal += [
        f"{name}={environment[0].get(name)} and {environment[1].get(name)}"
        for name in {**environment[0], **environment[1]}
        if environment[0].get(name) != environment[1].get(name)
    ]
    if unequal:
        return [f"another environment: {', '.join(unequal)}"]
    if one.spec.backend.name != other.spec.backend.name:
        return []  # only the software, which is part of what is compared
    return [f"another environment: fingerprint {first.fingerprint} and {second.fingerprint}"]


def _outer(report: Report) -> dict[str, str]:
    """Settings of the environment that are not part of what is compared, as in the worker's fingerprint."""
    kept = report.identity.env.items()
    return {
        name: value for name, value in kept if not name.startswith("BERT_OP_") and name != "HF_HUB_OFFLINE"
    }


def _two_of_one_name(one: Report, other: Report) -> tuple[str, ...]:
    """A folder's name says nothing of what is in it."""
    found = []
    for what, first, second in (
        ("model", one.spec.model, other.spec.model),
        ("data", one.spec.data, other.spec.data),
    ):
        if first.name == second.name and first.path != second.path:
            found.append(f"Two of one name: the {what} {first.name} is {first.path}, and {second.path}.")
    return tuple(found)


def _cautions(one: Report, other: Report) -> tuple[str, ...]:
    found = []
    for side, report in (("baseline", one), ("candidate", other)):
        if report.timing is not None and report.timing.noisy:
            found.append(f"The {side} was disturbed: {'; '.join(report.timing.noisy_because)}.")
        if report.failure is not None and report.timing is not None:
            found.append(f"The {side} did not finish: {report.failure.message}")
    return tuple(found)


def _flat(report: Report) -> dict[str, Any]:
    """Dotted settings, and after them what was observed."""
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                add(f"{prefix}.{name}" if prefix else name, item)
        elif prefix not in UNTOLD:
            found[prefix] = value

    plain = report.spec.to_plain()
    # What follows from a model's or a data set's name would only repeat it.
    plain["model"] = {name: plain["model"][name] for name in ("name", "path", "source", "tokenizer", "task")}
    plain["data"] = {name: plain["data"][name] for name in ("name", "path", "samples")}
    add("", plain)
    identity = to_plain(report.identity)
    build = identity.pop("op_build") or {}
    for name in ("fingerprint", "affinity", "weights_reason", "env"):
        identity.pop(name)
    add("", {**identity, "cores": len(report.identity.affinity), "op.commit": build.get("commit")})
    add("env", dict(report.identity.env))
    return found


def _told(value: Any) -> str:
    return "-" if value is None else str(value)
