"""Stands in for harness.worker where a test is about what the parent makes of a worker's end.

It obeys the variable STUB: `finish`, `fail`, `crash`, `kill`, `hang` (`hang-at-4`: only for batches of 4),
`exit`, `silent`, `astray` (it finishes, having run on other threads than it was given) or `fill` (it fills
the disk, then finishes).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import sys
import time
import zipfile
from array import array
from pathlib import Path

from harness.values import reserve
from harness.values.report import SAMPLES_FILE, Accuracy, Failure, Identity, Observed, Phases, Report, Timing
from harness.values.spec import RunSpec


def main() -> int:
    path = Path(sys.argv[-1])
    spec = RunSpec.read(path)
    what = os.environ.get("STUB", "finish")
    if what == "silent":
        return 3
    identity = Identity(
        cpu="stub",
        threads=int(os.environ.get("OMP_NUM_THREADS", "0")),
        affinity=tuple(os.sched_getaffinity(0)),
        env={name: os.environ[name] for name in os.environ if name.startswith(("BERT_OP", "MLFLOW"))},
    )
    report = Report(
        spec,
        phase="measure",
        identity=identity,
        phases=Phases(load_s=0.25),
        accuracy=Accuracy(samples=10, accuracy=0.8, data_digest="d"),
        started_at="2030-01-02T03:04:05+00:00",
    )
    report.write(path.parent)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        return 7
    if what == "hang" or (what == "hang-at-4" and spec.batch.size == 4):
        time.sleep(60)
    if what == "fail":
        failure = Failure("user", "no such tier")
        dataclasses.replace(report, status="failed", failure=failure).write(path.parent)
        return 1
    if what == "fill":  # the disk, up to its last byte
        _fill(path.parents[1] / "filler")
    samples = [(1 + index / 99) / (1 + len(spec.precision)) for index in range(100)]
    reserve.written(path.parent, lambda: _write_samples(path.parent / SAMPLES_FILE, samples))
    latency = {
        "p50": (samples[49] + samples[50]) / 2, "mean": sum(samples) / 100,
        "min": samples[0], "max": samples[-1], "p90": samples[89],
        "ci_low": samples[39], "ci_high": samples[60],
    }  # fmt: skip
    timing = Timing(
        count=100, elapsed_s=1.0, batch_size=spec.batch.size, seq_len=spec.batch.seq_len, latency_ms=latency,
        throughput_sps=1000 * spec.batch.size / latency["p50"], valid_tokens_per_call=8.0,
        observed=Observed((identity.threads or 1) + 3 * (what == "astray"), identity.affinity, (0,)),
    )  # fmt: skip
    finished = dataclasses.replace(report, status="finished", phase=None, timing=timing)
    reserve.written(path.parent, lambda: finished.write(path.parent))
    return 0


def _write_samples(path: Path, samples: list[float]) -> None:
    """What numpy.savez would write, without the time that importing NumPy takes."""
    described = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({len(samples)},), }}"
    header = f"{described:<117}\n".encode()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "latency_ms.npy",
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + array("d", samples).tobytes(),
        )


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(main())
