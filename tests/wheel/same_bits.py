"""same_bits.py FILE.json...: the digests that digests.py wrote in several environments are the same."""

import json
import sys
from pathlib import Path


def main(files: list[Path]) -> int:
    """1, with a line for each result that differs from the first file's."""
    digests = {file.stem: json.loads(file.read_text()) for file in files}
    first, *others = digests
    status = 0
    for other in others:
        for name in sorted(digests[first].keys() | digests[other].keys()):
            if digests[first].get(name) != digests[other].get(name):
                print(f"error: {name} differs between {first} and {other}", file=sys.stderr)
                status = 1
    print(f"{len(digests[first])} results, {len(digests)} environments")
    return status or int(not digests[first])


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
