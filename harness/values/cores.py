"""Lists of CPUs as a person, taskset and /proc write them."""

from __future__ import annotations

import re

from harness.values.errors import UserError

# Far above what Linux can number: a range to a mistyped end would fill the memory with its cores.
HIGHEST_CORE = 65535


def parse_cores(text: str, setting: str = "host.cores") -> tuple[int, ...]:
    """CPU numbers of a list like `0-3,8`, the format of taskset and of /sys. UserError where it is none."""
    cores: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise UserError(setting, text, "is no list of cores", "Use e.g. 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UserError(setting, text, f"the range {first}-{last} is empty", f"Use {last}-{first}")
        if last > HIGHEST_CORE:
            raise UserError(setting, text, f"there is no core {last}", "lscpu lists those of this machine")
        cores.extend(range(first, last + 1))
    return tuple(dict.fromkeys(cores))
