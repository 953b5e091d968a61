"""python -m harness.gate: fails when a measurement is worse than a pinned baseline, for anyone's CI.

  python -m harness.gate --baseline baseline.json --write RUN     pins what RUN measured
  python -m harness.gate --baseline baseline.json RUN             compares RUN with it

RUN: folders below outputs/runs or outputs/sweeps, or results.json or report.json files. The baseline is one
JSON file that is complete by itself: settings, environment, the median of every process, and each decision.
Commit it; pin a new one on purpose only, or many steps that are each within the noise add up unseen.

A variant is worse when it is slower beyond chance (as harness.compare judges) and its median latency or its
throughput is worse by more than --margin; or when its accuracy or F1 is lower by more than --accuracy-margin.
From too few calls, or where only a disturbed machine may have made it slower, nothing is judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.compare import matching, subjects
from harness.judge import floors, pairs, processes, variants
from harness.judge.floors import TOO_FEW
from harness.judge.pairs import NOT_COMPARABLE, Pair
from harness.judge.variants import Subject
from harness.sinks import console as shown
from harness.values.errors import UserError
from harness.values.plain import to_plain, write_json
from harness.values.redact import redact

PASSED, WORSE, WRONG_INPUT = 0, 1, 2
CONFIDENCE = f"{100 * processes.CONFIDENCE:g}%"
FOOT = """examples:
  python -m harness repetitions=10 precision=bf16 run_time=smoke tracking=none hydra.sweep.dir=now
  python -m harness.gate --baseline baseline.json now --margin 5%

Exit status: 0 nothing is worse, 1 something is, 2 wrong input, or it cannot be told of something that is
pinned: it was not measured, made too few calls, was too disturbed, or is not comparable: another machine,
other versions or other samples need a baseline of their own."""
# Of a share: one that is exactly at its margin must not fail by its last bit.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Finding:
    """What became of one variant of the baseline. outcome: `ok`, `worse`, or why that cannot be told:
    `missing`, `not comparable`, `too few calls to tell` or `too disturbed to tell`.
    """

    variant: str
    outcome: str
    sentences: tuple[str, ...]
    pair: Pair | None = None


def judge(
    baseline: Sequence[Subject],
    measured: Sequence[Subject],
    margin: float,
    accuracy_margin: float,
    confidence: float = processes.CONFIDENCE,
) -> list[Finding]:
    """One finding for each variant of the baseline, in its order.

    margin: share of the baseline's latency or throughput. accuracy_margin: in 0..1, of accuracy and F1.
    """
    found = []
    for one, partner in matching.partners(baseline, measured):
        if partner is None:
            found.append(Finding(one.name, "missing", ("It is pinned, but was not measured.",)))
            continue
        pair = pairs.compare(one, partner, confidence=confidence)
        found.append(_finding(one, partner, pair, margin, accuracy_margin))
    return found


def _finding(one: Subject, other: Subject, pair: Pair, margin: float, accuracy_margin: float) -> Finding:
    worse, unknown = _lost_accuracy(one, other, accuracy_margin), _unknown_accuracy(one, other)
    timed = one.report.timing is not None
    if timed and pair.verdict == NOT_COMPARABLE:
        why = tuple(f"{reason[:1].upper()}{reason[1:].rstrip('.')}." for reason in pair.because)
        return Finding(one.name, "worse" if worse else NOT_COMPARABLE, (*worse, *unknown, *why), pair)
    told, outcome = [], "ok"
    if timed:
        assert pair.speed is not None
        loss = max(_losses(one, other))
        told.append(f"{pair.verdict}: {_change(pair)}")
        if pair.verdict == TOO_FEW:
            outcome = TOO_FEW
            told.append(f"{pair.speed.method[:1].upper()}{pair.speed.method[1:]}. {floors.remedy()}")
            told += _too_few_to_pin(one)
        elif loss <= margin + ROUNDING:
            told += ["Pin a new baseline to keep the gain."] if pair.verdict == "faster" else []
        elif pair.verdict == "slower":
            worse += (f"It is slower by {loss:.1%}, and {margin:.1%} is allowed.",)
        elif pair.verdict == processes.TOO_DISTURBED:
            outcome = processes.TOO_DISTURBED
            told.append("The loss is beyond the margin: repeat it with repetitions=10 on a quieter machine.")
        else:
            told.append("The loss is beyond the margin, but may be chance: repeat it with repetitions=10.")
        told += pair.cautions
    outcome = "worse" if worse else NOT_COMPARABLE if unknown else outcome
    return Finding(one.name, outcome, (*worse, *unknown, *told), pair)


def _too_few_to_pin(one: Subject) -> list[str]:
    """That the baseline itself can judge no speed, if so."""
    missing = floors.shortage(floors.seen_by(one.report))
    return [] if missing is None else ["The baseline itself made too few: measure and pin it again."]


def _change(pair: Pair) -> str:
    assert pair.speed is not None
    interval = pair.speed.interval
    known = f" ({interval.low:.3f} .. {interval.high:.3f})" if interval is not None else ""
    medians = f"p50 {pair.candidate_ms:.3f} ms against {pair.baseline_ms:.3f} ms"
    return f"{medians}, ratio {pair.speed.ratio:.3f}{known}."


def _losses(one: Subject, other: Subject) -> list[float]:
    """Relative losses of latency and throughput, negative for gains."""
    before, after = one.report.timing, other.report.timing
    assert before is not None and after is not None
    return [
        after.latency_ms["p50"] / before.latency_ms["p50"] - 1,
        1 - after.throughput_sps / before.throughput_sps,
    ]


def _lost_accuracy(one: Subject, other: Subject, margin: float) -> tuple[str, ...]:
    """Sentences about lost accuracy. The same samples give the same decisions: no chance is left to judge."""
    found = []
    for name, pinned in _pinned(one).items():
        now = getattr(other.report.accuracy, name, None)
        if now is not None and not _other_samples(one, other) and pinned - now > margin + ROUNDING:
            allowed = f"{100 * margin:g} points are allowed"
            found.append(f"Its {name} fell from {pinned:.2%} to {now:.2%}, and {allowed}.")
    return tuple(found)


def _unknown_accuracy(one: Subject, other: Subject) -> tuple[str, ...]:
    """Why an accuracy that is pinned cannot be compared; empty where it can, or none is."""
    names = [name for name in _pinned(one) if getattr(other.report.accuracy, name, None) is None]
    found = [f"Its {name} is pinned, but was not measured." for name in names]
    if _pinned(one) and _other_samples(one, other):
        found.append("Its accuracy was measured on other samples than those of the baseline.")
    return tuple(found)


def _other_samples(one: Subject, other: Subject) -> bool:
    before, after = one.report.accuracy, other.report.accuracy
    return before is not None and after is not None and before.data_digest != after.data_digest


def _pinned(one: Subject) -> dict[str, float]:
    """What of accuracy and F1 the baseline has."""
    values = {name: getattr(one.report.accuracy, name, None) for name in ("accuracy", "f1")}
    return {name: value for name, value in values.items() if value is not None}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 nothing is worse, 1 something is, 2 wrong input or something cannot be compared."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json)
    try:
        measured = [one for run in options.runs for one in subjects.read(run)]
        if options.write:
            return _pin(options.baseline, measured, console)
        baseline = subjects.read(options.baseline)
    except UserError as problem:
        shown.error(str(problem))
        return WRONG_INPUT
    found = judge(baseline, measured, options.margin, options.accuracy_margin, options.confidence)
    if options.json:
        print(redact(json.dumps(to_plain(found), indent=2)))
    for one in found:
        style = {"ok": "green", "worse": "red"}.get(one.outcome, "yellow")
        text = f"{one.outcome}: {one.variant}\n" + "".join(f"  {sentence}\n" for sentence in one.sentences)
        console.print(redact(text.rstrip()), style=style, highlight=False, markup=False, soft_wrap=True)
    outcomes = {one.outcome for one in found}
    if "worse" in outcomes:
        return WORSE
    return PASSED if outcomes == {"ok"} else WRONG_INPUT


def _pin(path: Path, measured: list[Subject], console: Console) -> int:
    """Writes the baseline; what did not finish, or was measured twice, is no baseline. A file that is there
    and is none stays: it may be the report of a run, given in the wrong place.
    """
    if path.is_file() and not subjects.is_frozen(path):
        raise UserError(
            "--baseline", str(path), "is there and is no baseline", "Name another file, or remove this one"
        )
    for place, one in enumerate(measured):
        if one.report.status != "finished":
            raise UserError("RUN", one.name, "did not finish, so it cannot be pinned", "Measure it again")
        if any(matching.exactly(one, other) for other in measured[:place]):
            raise UserError("RUN", one.name, "was measured in several of the runs", "Give one of them")
    try:
        write_json(path, variants.frozen([dataclasses.replace(one, source="baseline") for one in measured]))
    except OSError as problem:
        raise UserError(
            "--baseline", str(path), f"cannot be written ({problem.strerror or problem})",
            "Name a file in a folder that you may write, and make room for it",
        ) from problem  # fmt: skip
    console.print(f"{path} pins {len(measured)} variants", highlight=False, markup=False)
    for one in measured:
        missing = floors.shortage(floors.seen_by(one.report))
        if missing is not None:
            told = f"{one.name}: {TOO_FEW} anything by its speed: {missing}. {floors.remedy()}"
            console.print(redact(told), style="yellow", highlight=False, markup=False, soft_wrap=True)
    return PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gate", description=__doc__, epilog=FOOT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="what was measured now")
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="the pinned file")
    parser.add_argument("--write", action="store_true", help="pin RUN as the baseline instead of comparing")
    parser.add_argument("--margin", type=_share, default=0.05, metavar="5%", help="default 5%%")
    parser.add_argument(
        "--accuracy-margin", type=_share, default=0.005, metavar="0.5%", help="in points; default 0.5%%"
    )
    parser.add_argument(
        "--confidence", type=_confidence, default=processes.CONFIDENCE,
        metavar=CONFIDENCE, help=f"of interval and test; default {CONFIDENCE.replace('%', '%%')}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON on stdout, for machines")
    return parser


def _share(text: str) -> float:
    """`5%` and `0.05` are the same."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: write 5% or 0.05")
    return value


def _confidence(text: str) -> float:
    """As `_share`; nothing is known with confidence 0."""
    value = _share(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is no confidence: write {CONFIDENCE}, or more than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
