"""Energy of the processor packages, from the counters that Linux shows of RAPL (powercap)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.values.report import Energy

POWERCAP = Path("/sys/class/powercap")
# No package takes more for long: a window in which a counter could have begun anew twice has no energy.
MAX_PACKAGE_WATTS = 1000.0
MICRO = 1e-6


@dataclass(frozen=True)
class Counter:
    """One package's counter. microjoules: since it last began at 0; range: value at which it begins again."""

    name: str
    microjoules: int
    range: int


def counters() -> tuple[Counter, ...] | str:
    """The counters of all packages now, or why there are none."""
    # intel-rapl:0 is a package (AMD's too); intel-rapl:0:0 is a part of it, and psys is the whole machine.
    folders = sorted(
        path for path in POWERCAP.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name)
    )
    found = []
    for folder in folders:
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package"):
                energy, limit = ((folder / file).read_text() for file in ("energy_uj", "max_energy_range_uj"))
                found.append(Counter(name, int(energy), int(limit)))
        except PermissionError:
            return f"{folder.name}/energy_uj may only be read by root"
        except (OSError, ValueError):
            return f"{folder.name} cannot be read"
    return tuple(found) or "this machine shows no RAPL counters"


def used(
    before: tuple[Counter, ...] | str, after: tuple[Counter, ...] | str, elapsed_s: float, sequences: int
) -> Energy:
    """What was taken between two readings of `counters`, in all and for each of `sequences`; or why not."""
    if isinstance(before, str):
        return Energy(absent_because=before)
    if isinstance(after, str):
        return Energy(absent_because=after)
    pairs = list(zip(before, after, strict=False))
    if len(before) != len(after) or any(one.name != other.name for one, other in pairs):
        return Energy(absent_because="a RAPL counter appeared or vanished meanwhile")
    shortest = min(one.range for one, _ in pairs) * MICRO / MAX_PACKAGE_WATTS
    if elapsed_s > shortest:
        return Energy(
            absent_because=f"a RAPL counter may have begun anew more than once in {elapsed_s:.0f} s"
        )
    joules = sum((other.microjoules - one.microjoules) % (one.range + 1) for one, other in pairs) * MICRO
    return Energy(joules, joules / sequences)
