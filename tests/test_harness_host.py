from pathlib import Path

import pytest

from harness import host
from harness.errors import UserError
from harness.host import Placement, environment, one_per_core, parse_cores, plan
from harness.spec import HostSpec

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


@pytest.mark.parametrize(("text", "cores"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("2, 2-3", (2, 3))])
def test_lists_of_cores(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "1-", "0;1", "-1"])
def test_no_list_of_cores(text: str) -> None:
    with pytest.raises(UserError, match=r"host\.cores"):
        parse_cores(text)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (HostSpec(), [Placement(None, None)]),
        (HostSpec(threads=3), [Placement(None, 3)]),
        (HostSpec(cores="all"), [Placement((0, 2), 2)]),
        (HostSpec(cores="1-3"), [Placement((1, 2, 3), 3)]),
        (HostSpec(cores="1-3", threads=1), [Placement((1, 2, 3), 1)]),
        (HostSpec(numa=0), [Placement((0,), 1)]),
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
        (HostSpec(numa=5), "host.numa"),
        (HostSpec(instances=3), "host.instances"),
    ],
)
def test_what_the_machine_lacks(settings: HostSpec, setting: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(settings, FOUR)
    assert caught.value.setting == setting


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
