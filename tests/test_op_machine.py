"""What `python -m bert_op` finds: quotas of control groups, the CPU, versions, families."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import bert_op
import pytest
import torch
import transformers
from bert_op import _machine
from bert_op._families import FAMILIES
from bert_op._machine import cpu_name, cpu_quota, this_machine
from bert_op._seam import SUPPORTED

ROOT = Path(__file__).resolve().parents[1]

TREES = {
    "none at all": ("0::/a\n", {}, None),
    "version 2, no limit": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
    "version 2": ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
    "version 2 in a container": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
    "version 2, the outer group is tighter": (
        "0::/pod/a\n",
        {"pod/cpu.max": "100000 100000\n", "pod/a/cpu.max": "400000 100000\n"},
        1.0,
    ),
    "version 2, the inner group is tighter": (
        "0::/pod/a\n",
        {"cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n", "pod/a/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "version 2, seen from another group": ("0::/../b\n", {"cpu.max": "300000 100000\n"}, 3.0),
    "version 1": (
        "3:memory:/m\n2:cpu,cpuacct:/pod/a\n1:name=systemd:/\n",
        {"cpu,cpuacct/pod/a/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/pod/a/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "version 1, no limit": (
        "1:cpu:/a\n",
        {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "version 1, the path is the host's": (
        "1:cpu:/docker/0123\n",
        {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        3.0,
    ),
    "version 1, the outer group is tighter": (
        "1:cpu:/pod/a\n",
        {
            "cpu/pod/cpu.cfs_quota_us": "100000\n",
            "cpu/pod/cpu.cfs_period_us": "50000\n",
            "cpu/pod/a/cpu.cfs_quota_us": "-1\n",
            "cpu/pod/a/cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "version 1 with 2 beside it": (
        "1:cpu:/a\n0::/b\n",
        {
            "cpu/a/cpu.cfs_quota_us": "400000\n",
            "cpu/a/cpu.cfs_period_us": "100000\n",
            "unified/b/cpu.max": "300000 100000\n",
        },
        3.0,
    ),
    "cpuset and cpuacct have none": ("2:cpuset:/a\n1:cpuacct:/a\n", {"cpuset/a/cpu.max": "1 1\n"}, None),
    "a colon in the name": ("0::/a:b\n", {"a:b/cpu.max": "100000 100000\n"}, 1.0),
    "not readable as numbers": ("0::/a\n", {"a/cpu.max": "\n", "cpu.max": "many few\n"}, None),
}


@pytest.mark.parametrize(("own", "files", "expected"), TREES.values(), ids=TREES)
def test_quota_is_the_tightest_of_the_groups(
    tmp_path: Path, own: str, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(own, tmp_path) == expected


def test_no_control_groups() -> None:
    assert cpu_quota("", Path("/nowhere")) is None


def test_cpu_has_a_name_or_none() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: A  CPU @ 2:0 GHz\nflags\t: x\n") == "A CPU @ 2:0 GHz"
    assert cpu_name("processor\t: 0\n") is None


def test_this_machine_is_what_other_calls_say() -> None:
    machine, state = this_machine(), bert_op.explain()
    assert json.loads(json.dumps(asdict(machine))) == {**asdict(machine), "families": list(machine.families)}
    assert (machine.tier, machine.tier_best) == (state["isa"], state["isa_detected"])
    assert (machine.version, machine.commit, machine.library) == tuple(
        state[name] for name in ("version", "commit", "library")
    )
    assert machine.threads == torch.get_num_threads()
    assert machine.cores_affinity == len(os.sched_getaffinity(0)) <= machine.cores
    assert (machine.torch, machine.transformers) == (torch.__version__, transformers.__version__)
    assert machine.transformers_fits
    assert machine.precision == "follows the model"
    assert machine.families == tuple(family.name for family in FAMILIES)
    assert machine.families_left == {}


def test_families_that_are_not_substituted_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bert, roberta, *_ = FAMILIES
    monkeypatch.setattr(import_module(bert.module), bert.encoder_name, bert.encoder)
    monkeypatch.delattr(import_module(roberta.module), roberta.encoder_name)
    machine = this_machine()
    assert list(machine.families_left) == ["bert", "roberta"]
    assert "own class" in machine.families_left["bert"]
    assert roberta.encoder_name in machine.families_left["roberta"]
    monkeypatch.setattr(_machine, "too_old", lambda: "bert_op needs transformers 4.56 or newer")
    machine = this_machine()
    assert (machine.families, set(machine.families_left.values())) == (
        (),
        {"bert_op needs transformers 4.56 or newer"},
    )
    monkeypatch.setattr(_machine, "_version_of", lambda name: None)
    machine = this_machine()
    assert (machine.transformers, machine.families) == (None, ())
    assert set(machine.families_left.values()) == {"transformers is not installed"}


@pytest.mark.parametrize(
    ("requirements", "asked_for", "fits"),
    [
        (["torch>=2.11", "transformers<6,>=4.56", 'transformers-x; extra == "dev"'], "<6,>=4.56", True),
        (["transformers<5,>=4.56"], "<5,>=4.56", False),
        (["torch>=2.11"], None, None),
    ],
)
def test_versions_are_held_against_what_the_package_asks_for(
    monkeypatch: pytest.MonkeyPatch, requirements: list[str], asked_for: str | None, fits: bool | None
) -> None:
    monkeypatch.setattr(_machine.metadata, "requires", lambda name: requirements)
    assert _machine._range_of("transformers", ">=4") == asked_for
    assert _machine._fits("5.23.0", asked_for) is fits


def test_a_checkout_asks_for_what_the_package_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> list[str]:
        raise _machine.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_machine.metadata, "requires", not_installed)
    asked_for = _machine._range_of("transformers", SUPPORTED)
    assert f'"transformers{asked_for}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("version", "asked_for", "fits"),
    [
        ("4.57.3", "<6,>=4.56", True),
        ("4.56.0", "<6,>=4.56", True),
        ("4.55.4", "<6,>=4.56", False),
        ("6.0.0", "<6,>=4.56", False),
        ("5.10.0.dev0", ">=5.9", True),
        ("5.23.0", "==5.23.0", True),
        ("5.23.0", ">=4, !=5.23", False),
        ("5.23.0", ">5.23,<=5.24", False),
        ("5.23.0", "~=5.20", None),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, asked_for: str, fits: bool | None) -> None:
    assert _machine._fits(version, asked_for) is fits


def test_whose_the_library_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BERT_OP_PT_LIB", raising=False)
    assert _machine._origin().startswith(("the checkout ", "installed"))
    installed = tmp_path / "site-packages" / "bert_op" / "_machine.py"
    installed.parent.mkdir(parents=True)
    shutil.copy(_machine.__file__, installed)
    monkeypatch.setattr(_machine, "__file__", str(installed))
    assert _machine._origin() == "installed"
    (tmp_path / "CMakeLists.txt").touch()
    monkeypatch.setattr(_machine, "__file__", str(tmp_path / "op" / "bert_op" / "_machine.py"))
    assert _machine._origin() == f"the checkout {tmp_path}"
    monkeypatch.setenv("BERT_OP_PT_LIB", "a.so")
    assert _machine._origin() == "BERT_OP_PT_LIB"
    monkeypatch.setattr(_machine, "loaded_from", lambda: None)
    assert "before bert_op was imported" in _machine._origin()
