from pathlib import Path

import pytest

from harness.run import host
from harness.run.host import Placement, environment, misplaced, one_per_core, plan
from harness.values.errors import UserError
from harness.values.report import Observed
from harness.values.spec import HostSpec

FOUR = frozenset({0, 1, 2, 3})


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four CPUs, two of each physical core; node 0 has the first core."""
    for cpu, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        folder = tmp_path / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    (tmp_path / "node/node0").mkdir(parents=True)
    (tmp_path / "node/node0/cpulist").write_text("0-1\n")
    monkeypatch.setattr(host, "SYSTEM", tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (HostSpec(), [Placement(None, None)]),
        (HostSpec(threads=3), [Placement(None, 3)]),
        (HostSpec(cores="all"), [Placement((0, 2), 2)]),
        (HostSpec(cores="1-3"), [Placement((1, 2, 3), 3)]),
        (HostSpec(cores="1-3", threads=1), [Placement((1, 2, 3), 1)]),
        (HostSpec(numa=0), [Placement((0,), 1, numa=0)]),
        (HostSpec(instances=2), [Placement((0,), 1), Placement((2,), 1)]),
        (HostSpec(cores="0-3", instances=2), [Placement((0, 1), 2), Placement((2, 3), 2)]),
    ],
)
def test_plan(settings: HostSpec, expected: list[Placement]) -> None:
    assert plan(settings, FOUR) == expected


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (HostSpec(cores="7"), "host.cores"),
        (HostSpec(cores="3-0"), "host.cores"),
        (HostSpec(numa=5), "host.numa"),
        (HostSpec(instances=3), "host.instances"),
    ],
)
def test_what_the_machine_lacks(settings: HostSpec, setting: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(settings, FOUR)
    assert caught.value.setting == setting


@pytest.mark.parametrize("cores", ["0-1", ""], ids=["others may use it", "it has memory only"])
def test_a_node_without_a_core_for_this_process_is_named(tmp_path: Path, cores: str) -> None:
    (tmp_path / "node/node0/cpulist").write_text(f"{cores}\n")
    with pytest.raises(UserError, match=r"host\.numa=0: this process may use none of .*of one of 2,3"):
        plan(HostSpec(numa=0), frozenset({2, 3}))


def test_one_thread_of_each_core() -> None:
    assert one_per_core(frozenset({1, 2, 3})) == (1, 2)


def test_environment_of_the_worker() -> None:
    base = {"PATH": "p", "PYTHONPATH": "mine", "MLFLOW_TRACKING_PASSWORD": "x", "OMP_NUM_THREADS": "9"}
    made = environment(Placement((0,), 2), base, Path("/here"))
    assert made == {
        "PATH": "p", "PYTHONPATH": "/here:mine", "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2",
    }  # fmt: skip
    assert environment(Placement(None, None), base, Path("/here"))["OMP_NUM_THREADS"] == "9"


def test_another_allocator_is_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib/x86_64-linux-gnu/libjemalloc.so.2"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(host, "LIBRARIES", (tmp_path / "lib",))
    (placement,) = plan(HostSpec(allocator="jemalloc"), FOUR)
    assert environment(placement, {"LD_PRELOAD": "mine"}, Path("/here"))["LD_PRELOAD"] == f"{library}:mine"
    with pytest.raises(UserError, match=r"host\.allocator='tcmalloc': .*apt install libtcmalloc-minimal4"):
        plan(HostSpec(allocator="tcmalloc"), FOUR)


TWO = Placement((0, 1), 2)
TOOK = Observed(threads=2, cores=(0, 1), memory_nodes={"0": 1.0}, allocator="libc")


@pytest.mark.parametrize(
    ("settings", "placement", "observed"),
    [
        (HostSpec(), Placement(None, None), TOOK),
        (HostSpec(threads=2, cores="0,1"), TWO, TOOK),
        (HostSpec(cores="0,1"), TWO, Observed(threads=1, cores=(0, 1))),
        (HostSpec(cores="0,1"), TWO, Observed(threads=1, cores=(0,))),
        (HostSpec(numa=0), Placement((0, 1), 2, numa=0), TOOK),
        (HostSpec(cores="0,1", threads=4), Placement((0, 1), 4), Observed(threads=4, cores=(0, 1))),
    ],
)
def test_what_took_effect(settings: HostSpec, placement: Placement, observed: Observed) -> None:
    assert misplaced(settings, placement, observed) is None


@pytest.mark.parametrize(
    ("settings", "placement", "observed", "words"),
    [
        (HostSpec(threads=2), Placement(None, 2), Observed(1, (0, 1)), ("host.threads=2", "1 thread did")),
        (HostSpec(threads=2), Placement(None, 2), Observed(4, (0, 1)), ("host.threads=2", "4 threads did")),
        (HostSpec(cores="0,1"), TWO, Observed(2, (0, 1, 2, 3)), ("host.cores='0,1'", "run on 0,1,2,3")),
        (HostSpec(cores="0,1"), TWO, Observed(2, (0,)), ("host.cores='0,1'", "2 threads", "run on 0")),
        (HostSpec(cores="0,1"), TWO, Observed(8, (0, 1)), ("host.cores='0,1'", "8 threads shared 2 cores")),
        (
            HostSpec(numa=1),
            Placement((0, 1), 2, numa=1),
            Observed(2, (0, 1), memory_nodes={"0": 0.6, "1": 0.4}),
            ("host.numa=1", "only 40%"),
        ),
        (HostSpec(allocator="jemalloc"), Placement(None, None), TOOK, ("host.allocator='jemalloc'", "libc")),
    ],
)
def test_what_did_not_take_effect(
    settings: HostSpec, placement: Placement, observed: Observed, words: tuple[str, ...]
) -> None:
    problem = misplaced(settings, placement, observed)
    assert problem is not None and all(word in str(problem) for word in words), problem
