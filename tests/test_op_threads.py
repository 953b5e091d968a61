"""Many threads, models and processes at once: the same bits as alone, and no memory that grows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from op_models import random_batch, random_model, tiny_config
from op_native import random_weights
from torch import Tensor

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
SHAPES = [(1, 1), (2, 7), (1, 40), (5, 3), (3, 16), (4, 33), (1, 9), (2, 64)]
WORKERS, CALLS = 8, 200


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def packed_model(precision: str, hidden_size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    (packed,) = torch.ops.bert_op.prepack(
        random_weights(generator, hidden_size),
        num_heads=hidden_size // 32,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        precision=precision,
    )
    return packed


def call(packed: Tensor, shape: tuple[int, int], hidden_size: int = 64) -> Tensor:
    """One call on an input that its shape determines, with a padded sequence in it."""
    hidden_states = torch.randn(*shape, hidden_size, generator=torch.Generator().manual_seed(shape[1]))
    mask = torch.ones(shape, dtype=torch.long)
    mask[-1, shape[1] // 2 + 1 :] = 0
    return torch.ops.bert_op.encoder(hidden_states, mask, [packed], skip_padding=shape[0] % 2 == 0)


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """`work(worker)` of all workers, who begin together; raises what one of them raises."""
    start = threading.Barrier(WORKERS)

    def run(worker: int) -> Any:
        start.wait()
        return work(worker)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run, range(WORKERS)))


def test_eight_threads_on_one_model_get_what_one_gets() -> None:
    models = {precision: packed_model(precision) for precision in PRECISIONS}
    torch.set_num_threads(1)
    expected = {(p, shape): call(models[p], shape) for p in PRECISIONS for shape in SHAPES}

    def work(worker: int) -> int:
        torch.set_num_threads(1 + worker % 4 // 3)  # of this Python thread; two of eight take two
        wrong = 0
        for turn in range(CALLS):
            precision = PRECISIONS[(turn // 7 + worker) % 4]
            shape = SHAPES[(turn * 5 + worker) % len(SHAPES)]
            wrong += not torch.equal(call(models[precision], shape), expected[precision, shape])
        return wrong

    assert at_once(work) == [0] * WORKERS


def test_first_calls_of_models_come_from_all_threads() -> None:
    """Packing happens in the first call: here many first calls at once, on several models."""
    models = [random_model(tiny_config(), seed=seed) for seed in range(3)]
    torch.set_num_threads(1)
    with torch.inference_mode():
        expected = [[model(**random_batch(*shape))[0] for shape in SHAPES] for model in models]
    for model in models:
        model.encoder._drop()

    @torch.inference_mode()
    def work(worker: int) -> int:
        torch.set_num_threads(1)
        wrong = 0
        for turn in range(24):
            model, shape = (turn + worker) % len(models), (turn * 3 + worker) % len(SHAPES)
            output = models[model](**random_batch(*SHAPES[shape]))[0]
            wrong += not torch.equal(output, expected[model][shape])
        return wrong

    assert at_once(work) == [0] * WORKERS
    assert all(bert_op.explain(model)["fallbacks"] == [] for model in models)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_number_of_threads_may_change_between_calls(precision: str) -> None:
    packed = packed_model(precision)
    torch.set_num_threads(1)
    expected = [call(packed, shape) for shape in SHAPES]
    for threads in (2, 3, 1, 5, 2):
        torch.set_num_threads(threads)
        for shape, value in zip(SHAPES, expected, strict=True):
            assert torch.equal(call(packed, shape), value), (threads, shape)


def test_beside_the_matrix_products_of_torch() -> None:
    """torch keeps, by thread, its own idea of the tile registers that AMX kernels share."""
    packed = packed_model("bf16"), packed_model("bf16_qint8")
    torch.set_num_threads(1)
    matrix = torch.randn(64, 96).bfloat16()
    linear = torch.nn.Linear(96, 64).bfloat16()
    with torch.inference_mode():
        product, projected = matrix @ matrix.T, linear(matrix)
        expected = [call(model, (3, 16)) for model in packed]

        def work(worker: int) -> bool:
            torch.set_num_threads(1)
            same = True
            with torch.inference_mode():
                for turn in range(40):
                    same &= torch.equal(matrix @ matrix.T, product)
                    same &= torch.equal(call(packed[turn % 2], (3, 16)), expected[turn % 2])
                    same &= torch.equal(linear(matrix), projected)
            return same

        assert at_once(work) == [True] * WORKERS


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def refuse_sanitizer() -> None:
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer keeps what is freed: memory grows by design")


def test_memory_does_not_grow_over_ten_thousand_calls() -> None:
    refuse_sanitizer()
    torch.set_num_threads(1)
    packed = packed_model("bf16_qint8", hidden_size=32)
    inputs = torch.randn(8, 64, 32)

    def calls(count: int) -> None:
        for turn in range(count):
            hidden_states = inputs[: 1 + turn % 8, : 1 + turn * 7 % 23 if turn % 50 else 64]
            torch.ops.bert_op.encoder(hidden_states, None, [packed])

    calls(1000)
    before = resident_bytes()
    calls(10_000)
    assert resident_bytes() - before < 4 << 20


def test_threads_that_end_give_their_memory_back() -> None:
    refuse_sanitizer()
    packed = packed_model("fp32")
    expected = call(packed, (2, 64))
    results: list[bool] = []

    def work() -> None:
        torch.set_num_threads(1)
        results.append(torch.equal(call(packed, (2, 64)), expected))

    def come_and_go(count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    come_and_go(20)
    before = resident_bytes()
    come_and_go(200)  # each has a workspace of 2 MiB at least
    assert resident_bytes() - before < 32 << 20
    assert all(results)
    assert len(results) == 220


# Forks before anything has started a thread; each process of the pool on a core of its own.
POOL = """
import os, sys, torch, bert_op
sys.path.insert(0, sys.argv[1])
from test_op_threads import SHAPES, PRECISIONS, call, packed_model
def digest():
    models = [packed_model(precision) for precision in PRECISIONS]
    return hash(tuple(call(m, s).numpy().tobytes() for m in models for s in SHAPES if s[0] % 2))
cores = sorted(os.sched_getaffinity(0))
children = []
for worker in range(4):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {cores[worker % len(cores)]})
        torch.set_num_threads(1 + worker % 2)
        os.write(write, str(digest()).encode())
        os._exit(0)
    os.close(write)
    children.append((child, read))
found = {os.read(read, 100) for _, read in children}
assert all(os.waitpid(child, 0)[1] == 0 for child, _ in children)
print(found == {str(digest()).encode()})
"""


def test_pool_of_processes_pinned_to_cores() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", POOL, str(Path(__file__).parent)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "True", result.stderr[-3000:]


THREADS = "import bert_op, torch; torch.set_num_threads(8); print(bert_op.explain()['threads'])"


def test_no_more_threads_than_the_affinity_allows() -> None:
    one = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {THREADS}"
    run = subprocess.run([sys.executable, "-c", one], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"


@pytest.fixture
def cpu_group() -> Iterator[Path]:
    """A control group of version 1 that this test may make; version 2 needs its parent to delegate."""
    root = Path("/sys/fs/cgroup/cpu")
    group = root / f"bert_op_test_{os.getpid()}"
    if not (root / "cpu.cfs_quota_us").exists():
        pytest.skip("no control groups of version 1 for CPU time here")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


@pytest.mark.parametrize(("quota", "threads"), [(50_000, "1"), (100_000, "1"), (150_000, "2"), (-1, None)])
def test_no_more_threads_than_the_quota_allows(cpu_group: Path, quota: int, threads: str | None) -> None:
    (cpu_group / "cpu.cfs_quota_us").write_text(str(quota))
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        pytest.skip("a process of real-time priority cannot join a group without a share of it")
    join = (
        f"open('{cpu_group}/cgroup.procs', 'w').write('0')"  # after the imports, which would take their time
    )
    inside = THREADS.replace("; torch.set", f"; {join}; torch.set", 1)
    run = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True)
    cores = len(os.sched_getaffinity(0))
    assert run.stdout.strip() == str(min(8, cores, int(threads) if threads else cores))


IDLE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_op_threads import call, packed_model
packed = packed_model("bf16_qint8")
for _ in range(200):
    call(packed, (4, 33))
time.sleep(1)
before = os.times()
time.sleep(1)
after = os.times()
print(round((after.user + after.system - before.user - before.system) * 100))
"""


def test_one_second_after_a_call_nothing_runs_any_more() -> None:
    command = [sys.executable, "-c", IDLE, str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(result.stdout) == 0  # ticks of 10 ms
