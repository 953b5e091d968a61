"""The roofline of this machine and where the op stands under it: rate over tokens per call.

    python cpp/bench/roofline.py --threads 2 --output docs/roofline.png

A call reads every weight once, so it cannot take less than their bytes over the memory's bandwidth; and it
cannot compute faster than registers alone. Both roofs are measured in the same process as the op: the
bandwidth by reading a buffer far larger than the caches, the peak by the tier's densest multiply-add. Where
the last-level cache keeps part of the weights between calls, the op may stand above the slope.
(Williams, Waterman, Patterson: Roofline, 2009.)
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import bert_op
import matplotlib
import torch
from bert_op._library import build_info
from encoder_bench import PEAK_OF, SIZES, flop_count
from transformers import BertConfig, BertModel

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHAPES = ((1, 8), (1, 16), (1, 32), (1, 64), (1, 128), (2, 128), (4, 128), (8, 128), (16, 128), (32, 128))


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read from memory together."""
    torch.set_num_threads(threads)
    buffer = torch.ones(1 << 27, dtype=torch.int32)
    buffer.max()
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        buffer.max()
        times.append(time.perf_counter() - begin)
    return buffer.nbytes / statistics.median(times)


def latency(model: torch.nn.Module, batch: int, seq_len: int, seconds: float) -> float:
    """Median seconds of a call."""
    ids = torch.randint(0, 1000, (batch, seq_len))
    times: list[float] = []
    with torch.inference_mode():
        model(input_ids=ids)
        start = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            model(input_ids=ids)
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(SIZES), default="bert-base")
    parser.add_argument(
        "--precisions", nargs="+", choices=sorted(PEAK_OF), default=["fp32", "bf16", "bf16_qint8"]
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="for each point")
    parser.add_argument("--output", type=Path, default=Path("roofline.png"))
    options = parser.parse_args()

    bandwidth = read_bandwidth(options.threads)
    config = BertConfig(vocab_size=1000, **SIZES[options.model])
    original = bert_op.restore(BertModel(config, add_pooling_layer=False).eval())
    tokens = [batch * seq_len for batch, seq_len in SHAPES]
    figure, axes = plt.subplots(figsize=(8, 5))
    print(f"tier {build_info()['isa']}, {options.threads} threads, {bandwidth / 1e9:.1f} GB/s")
    print(f"{'precision':<12}{'tokens':>7}{'ms':>9}{'T/s':>8}{'roof':>8}{'of roof':>9}")
    for index, precision in enumerate(options.precisions):
        model = bert_op.optimize(copy.deepcopy(original), precision=precision, skip_padding=False)
        weight_bytes = bert_op.explain(model)["packed_bytes"]
        peak = torch.ops.bert_op.measure_peak(PEAK_OF[precision]) * options.threads
        rates, roofs = [], []
        for batch, seq_len in SHAPES:
            flops = flop_count(config, batch, seq_len)
            seconds = latency(model, batch, seq_len, options.seconds)
            rates.append(flops / seconds)
            roofs.append(min(peak, flops * bandwidth / weight_bytes))
            print(
                f"{precision:<12}{batch * seq_len:>7}{seconds * 1e3:>9.2f}{rates[-1] / 1e12:>8.3f}"
                f"{roofs[-1] / 1e12:>8.3f}{rates[-1] / roofs[-1]:>9.1%}"
            )
        color = f"C{index}"
        axes.loglog(tokens, [rate / 1e12 for rate in rates], "o-", color=color, label=precision)
        axes.loglog(tokens, [roof / 1e12 for roof in roofs], "--", color=color, label=f"roof of {precision}")
    axes.set_xlabel("tokens per call")
    axes.set_ylabel("10^12 operations per second")
    axes.set_title(
        f"{options.model}, {options.threads} threads, tier {build_info()['isa']}, {bandwidth / 1e9:.0f} GB/s"
    )
    axes.set_xticks(tokens, [str(count) for count in tokens])
    low, high = axes.get_ylim()
    steps = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)]
    rates_shown = [step for step in steps if low <= step <= high]
    axes.set_yticks(rates_shown, [f"{rate:g}" for rate in rates_shown])
    axes.minorticks_off()
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    print(f"drawn: {options.output}")


if __name__ == "__main__":
    main()
