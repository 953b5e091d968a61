"""`python -m bert_op`: what this machine and environment are, in one screen."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bert_op._library import LibraryError, load

if TYPE_CHECKING:
    from bert_op._gains import Gains
    from bert_op._machine import Machine

_WIDTH = 80
_LABEL = 14

_DESCRIPTION = """\
What bert_op finds on this machine and in this environment: the CPU and the tier of
instructions in use, cores and threads, versions, the compiled library and where it
came from, and the model families that `import bert_op` substitutes.
"""
_EPILOG = """\
examples:
  python -m bert_op                     one screen to look at
  python -m bert_op --measure           and which precision to take here, in about 10 s
  python -m bert_op --measure --json    all of it, to put into a bug report
  BERT_OP_MAX_ISA=avx2 python -m bert_op --measure      as on a CPU without AVX-512

Status: 0; 2 if the library cannot be used or an argument is unknown.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        load()
        from bert_op._machine import this_machine

        machine = this_machine()
    except LibraryError as error:
        print(f"bert_op: {error}", file=sys.stderr)
        return 2
    if options.measure and machine.transformers is None:
        print("bert_op: --measure needs transformers: pip install transformers.", file=sys.stderr)
        return 2
    load_before = os.getloadavg()[0]
    gains = None
    if options.measure:
        from bert_op._gains import measure

        gains = measure()
    if options.json:
        measured = {} if gains is None else {"measured": {**asdict(gains), "load_before": load_before}}
        print(json.dumps({**asdict(machine), **measured}, indent=2))
        return 0
    print(machine_text(machine, brief=gains is not None))
    if gains is not None:
        print(gains_text(gains, machine, load_before))
    return 0


def machine_text(machine: Machine, brief: bool = False) -> str:
    """A line or a few for each thing, none longer than a screen is wide.

    Args:
        brief: without what does not bear on the speed: families, and the precision to come.
    """
    commit = f"commit {machine.commit[:10]}" + (" and changes" if machine.dirty else "")
    rows = {
        "bert_op": f"{machine.version}, {commit}",
        "CPU": machine.cpu or "unknown",
        "Tier": _tier(machine),
        "Cores": _cores(machine),
        "Python": f"{machine.python}, torch {machine.torch}",
        "transformers": _transformers(machine),
        "Library": _path(machine.library or "unknown"),
        "": f"({machine.library_from})",
    }
    if not brief:
        rows["Families"] = _families(machine)
        rows["Precision"] = machine.precision + (", skipping padding" if machine.skip_padding is True else "")
    return "\n".join(line for label, text in rows.items() for line in _row(label, text))


def gains_text(gains: Gains, machine: Machine, load_before: float) -> str:
    """The table of times and the recommendation."""
    from bert_op._gains import BASE, recommendation

    shapes = list(gains.shapes)
    lines = ["One BERT-base layer:" + "".join(f"{f'{shape}, ms':>17}" for shape in shapes)]
    for contender in gains.shapes[shapes[0]]:
        cells = [
            f"{1e3 * gains.shapes[shape][contender]:>9.2f}"
            + (f" {gains.gain(contender, shape):>6.2f}x" if contender != BASE else " " * 8)
            for shape in shapes
        ]
        lines.append(f"  {contender:<18}" + "".join(cells).rstrip())
    if load_before > machine.cores / 2:
        lines.append(f"Load was {load_before:.1f} on {machine.cores} cores: measure again when it is quiet.")
    sentence, code = recommendation(gains)
    lines += textwrap.wrap(sentence, _WIDTH)
    if code:
        lines.append(f"  {code}")
    return "\n".join(lines)


def _row(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
    )


def _path(path: str) -> str:
    """With a space where a path that is too long for its line may be broken."""
    room = _WIDTH - _LABEL
    cut = path.rfind("/", 0, room) + 1
    return path if len(path) <= room else f"{path[:cut]} {path[cut:]}"


def _tier(machine: Machine) -> str:
    if machine.tier == machine.tier_best:
        text = f"{machine.tier}, the best of this CPU"
    else:
        text = f"{machine.tier}; this CPU has {machine.tier_best}"
    if machine.tier_cap:
        text += f" (BERT_OP_MAX_ISA={machine.tier_cap})"
    return text + ("" if machine.bf16_instructions else "; no bf16 instructions")


def _cores(machine: Machine) -> str:
    quota = "no quota" if machine.cores_quota is None else f"a quota of {machine.cores_quota:g}"
    text = f"{machine.cores_affinity} of {machine.cores} by affinity, {quota}; torch uses {machine.threads}"
    if machine.threads > machine.threads_op:
        text += f", too many: set OMP_NUM_THREADS={machine.threads_op}"
    return text


def _transformers(machine: Machine) -> str:
    if machine.transformers is None:
        return "not installed: pip install transformers"
    if machine.transformers_range is None:
        return machine.transformers
    fits = {True: "which fits", False: "which does not fit", None: "asked for:"}[machine.transformers_fits]
    return f"{machine.transformers}, {fits} {machine.transformers_range}"


def _families(machine: Machine) -> str:
    left, total = machine.families_left, len(machine.families) + len(machine.families_left)
    text = f"{len(machine.families)} of {total} substituted"
    if machine.families:
        text += f": {', '.join(machine.families)}"
    reasons = list(dict.fromkeys(left.values()))
    if len(reasons) == 1:
        return f"{text}. Not {', '.join(left) if machine.families else 'any'}: {reasons[0]}"
    return text + (f". Not {', '.join(left)}: --json says why" if left else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bert_op",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="time a BERT-base layer in each precision and as Hugging Face has it; say which to take",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
