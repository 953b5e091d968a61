"""The op against Hugging Face's own model in the same process, call by call in turn.

    python cpp/bench/encoder_bench.py --model bert-base --batch 4 --seq-len 128 --threads 2

Prints, for each variant, the median latency, sequences per second, the ratio to Hugging Face's bf16 model in
eager mode, and the fraction of the peak that the same process measured on registers. Steady it with
`chrt -f 10`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import bert_op
import torch
from bert_op._library import build_info
from transformers import BertConfig, BertModel

SIZES = {
    "bert-base": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
    },
    "bert-large": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
    },
    "minilm": {
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
    },
}
PEAK_OF = {"fp32": "f32", "fp32_qint8": "u8", "bf16": "bf16", "bf16_qint8": "u8"}


def flop_count(config: BertConfig, batch: int, seq_len: int) -> int:
    """Multiplications and additions of the encoder's matrix products for one call."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * intermediate) + 4 * seq_len * hidden
    return config.num_hidden_layers * batch * seq_len * per_token


def variants(config: BertConfig) -> dict[str, torch.nn.Module]:
    """The models to compare, all with the same weights."""
    torch.manual_seed(0)
    original = bert_op.restore(BertModel(config, add_pooling_layer=False).eval())
    models: dict[str, torch.nn.Module] = {
        "hf fp32": original,
        "hf bf16": copy.deepcopy(original).to(torch.bfloat16),
    }
    for precision in PEAK_OF:
        models[f"op {precision}"] = bert_op.optimize(
            copy.deepcopy(original), precision=precision, skip_padding=False
        )
    return models


def interleave(calls: dict[str, Callable[[], object]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Latencies in seconds; all variants run once before any runs again."""
    for call in calls.values():
        call()
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    while len(next(iter(samples.values()))) < rounds or time.perf_counter() - start < seconds:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - begin)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(SIZES), default="bert-base")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="run at least this long")
    parser.add_argument("--rounds", type=int, default=7, help="and at least this many rounds")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    config = BertConfig(vocab_size=1000, **SIZES[options.model])
    models = variants(config)
    ids = torch.randint(0, 1000, (options.batch, options.seq_len))
    flops = flop_count(config, options.batch, options.seq_len)
    with torch.inference_mode():
        calls = {
            name: (lambda model=model: model(input_ids=ids).last_hidden_state)
            for name, model in models.items()
        }
        samples = interleave(calls, options.seconds, options.rounds)
    peaks = {kind: torch.ops.bert_op.measure_peak(kind) * options.threads for kind in ("f32", "bf16", "u8")}

    medians = {name: statistics.median(values) for name, values in samples.items()}
    print(
        f"{options.model}, batch {options.batch}, seq_len {options.seq_len}, {options.threads} threads, "
        f"tier {build_info()['isa']}, {len(samples['hf bf16'])} rounds"
    )
    print(
        "peak on registers, all threads: "
        + ", ".join(f"{kind} {rate / 1e12:.2f} T/s" for kind, rate in peaks.items())
    )
    print(f"{'variant':<16}{'median ms':>11}{'seq/s':>9}{'x hf bf16':>11}{'T/s':>8}{'of peak':>9}")
    for name, median in medians.items():
        rate = flops / median
        kind = PEAK_OF[name.split()[1]]
        print(
            f"{name:<16}{median * 1e3:>11.2f}{options.batch / median:>9.1f}"
            f"{medians['hf bf16'] / median:>11.2f}{rate / 1e12:>8.2f}{rate / peaks[kind]:>9.1%}"
        )


if __name__ == "__main__":
    main()
