"""What the plan would make of machines with more cores: a replay with the cost model, nothing is run.

    python cpp/bench/plan_table.py [--isa avx512_vnni] [--precision bf16_qint8] [--threads 2,4,8,16,32,64,128]

For each model and batch: estimated milliseconds, and in brackets how many threads take part and their
efficiency (mean over largest of what the threads compute, with barriers counted as waiting at 0.3 us and 60
ns more for each member). Speeds of one core are those of cpp/encoder/cost.cpp; memory bandwidth, sockets
and cores of two kinds are not in it.
"""

from __future__ import annotations

import argparse
import json
import random

from bert_op import _native

MODELS = {
    "MiniLM-L6": (6, 384, 12, 1536),
    "BERT-base": (12, 768, 12, 3072),
    "BERT-large": (24, 1024, 16, 4096),
}


def batches() -> dict[str, list[int]]:
    """Lengths of the sequences of each batch."""
    lengths = random.Random(0)
    return {
        "1 x 16": [16],
        "1 x 128": [128],
        "4 x 128": [128] * 4,
        "1 x 512": [512],
        "32 of 12 to 128": [lengths.randint(12, 128) for _ in range(32)],
        "512 and 31 of 24": [512] + [24] * 31,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--isa", default="avx512_vnni")
    parser.add_argument("--precision", default="bf16_qint8")
    parser.add_argument("--threads", default="2,4,8,16,32,64,128")
    asked = parser.parse_args()
    threads = [int(number) for number in asked.threads.split(",")]
    print("| model, batch | " + " | ".join(f"{number}" for number in threads) + " |")
    print("|---" * (len(threads) + 1) + "|")
    for model, (layers, hidden, heads, intermediate) in MODELS.items():
        for batch, lengths in batches().items():
            cells = []
            for number in threads:
                plan = json.loads(
                    _native.plan(
                        asked.precision, layers, hidden, heads, intermediate, lengths, number, asked.isa
                    )
                )
                cells.append(
                    f"{plan['microseconds'] / 1000:.3g} ({plan['threads']}, {plan['efficiency']:.0%})"
                )
            print(f"| {model}, {batch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
