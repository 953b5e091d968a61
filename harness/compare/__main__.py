"""python -m harness.compare: what differs between measurements, by how much, and whether that can be chance.

  python -m harness.compare A B [C ...]     A is the baseline of the others
  python -m harness.compare SWEEP           the sweep's first variant is the baseline of the others
  python -m harness.compare SWEEP --baseline precision=fp32
                                            so is the closest variant of this kind, for each on the same work
  python -m harness.compare --commits REV1 REV2 [group=option ...]
                                            builds both, lets them take turns, and compares

A, B: folders below outputs/runs or outputs/sweeps, report.json files, results.json of a sweep, or a baseline
that harness.gate pinned. Variants of several sweeps find each other by backend, precision, model, batch and
load.

The verdict is `faster`, `slower`, `no difference detected`, or why there is none: `not comparable`,
`too few calls to tell` or `too disturbed to tell`. It compares the medians of processes: measure with
repetitions=10, in one sweep, so that the variants take turns. One process each tells only large differences
apart, because fresh processes of one program differ by a few percent.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from harness.compare import commits, matching, page, subjects
from harness.judge import pairs, processes, variants
from harness.judge.pairs import Pair
from harness.judge.variants import Subject
from harness.sinks import console as shown
from harness.values.errors import UserError
from harness.values.plain import to_plain
from harness.values.redact import redact

COMPARED, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
ONE_OF = 1 / (1 - processes.CONFIDENCE)
FOOT = """examples:
  python -m harness -m contender=op-fp32,op-bf16 repetitions=10 run_time=smoke measure=throughput
  python -m harness.compare outputs/sweeps/<time>
  python -m harness.compare outputs/runs/<time> outputs/runs/<time> --output outputs/comparison
  python -m harness.compare --commits v1.0 HEAD model=minilm precision=bf16 repetitions=10 run_time=smoke

Exit status: 0 compared, whatever the verdict (harness.gate fails on a regression); 1 a commit could not be
built or measured; 2 wrong command line, or --output cannot be written."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 compared, 1 a commit could not be built or measured, 2 a wrong input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    try:
        if options.commits:
            targets = [commits.measure(options.commits, options.given, console)]
        elif not options.given:
            parser.error("name two runs, or a sweep (--help has examples)")
        else:
            targets = subjects.read_all([Path(name) for name in options.given])
        matched, alone = matching.match(targets, options.baseline)
        found = [
            pairs.compare(*both, confidence=options.confidence, smallest=options.smallest) for both in matched
        ]
    except (commits.BuildError, commits.MeasureError) as problem:
        shown.error(str(problem))
        return FAILED
    except UserError as problem:
        shown.error(str(problem))
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(redact(json.dumps(to_plain({"pairs": found, "alone": alone}), indent=2)))
    else:
        page.show(console, found, alone)
    if options.output is not None:
        try:
            _write(options.output, found, alone, matched, console)
        except UserError as problem:
            shown.error(str(problem))
            return WRONG_INPUT
        except OSError as problem:
            told = f"cannot be written ({problem.strerror or problem})"
            remedy = "Name a folder that you may write, and make room for it"
            shown.error(str(UserError("--output", str(options.output), told, remedy)))
            return WRONG_INPUT
    return COMPARED


def _write(
    folder: Path,
    found: list[Pair],
    alone: list[str],
    matched: list[tuple[Subject, Subject]],
    console: Console,
) -> None:
    behind = [(variants.processes(a.report), variants.processes(b.report)) for a, b in matched]
    for path in page.write(folder, found, alone, behind):
        console.print(str(shown.nearby(path)), highlight=False, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.compare", description=__doc__, epilog=FOOT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("given", nargs="*", metavar="A", help="what to compare; after --commits: overrides")
    parser.add_argument(
        "--commits", nargs=2, metavar=("REV1", "REV2"), help="build and measure these, in turns"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="also write compare.md, .html, .png, .json"
    )
    parser.add_argument(
        "--baseline", metavar="WHICH",
        help="within a sweep: a contender or settings, as in hf-fp32, precision=fp32 or 'backend=op batch=4'",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON on stdout, for machines")
    parser.add_argument(
        "--confidence", type=_share, default=processes.CONFIDENCE, metavar=f"{processes.CONFIDENCE:g}",
        help=f"of interval and test (default %(default)s: 1 of {ONE_OF:.0f} equal pairs may seem different)",
    )  # fmt: skip
    parser.add_argument(
        "--smallest", type=_share, default=processes.SMALLEST, metavar="0.01",
        help="differences up to this share are never called (default %(default)s)",
    )  # fmt: skip
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
