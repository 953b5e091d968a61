"""What ran is read back, and what differs from what was asked for is an error."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from worker_tools import run_spec

from harness.values.errors import UserError
from harness.values.report import Identity
from harness.values.spec import HostSpec, ModelSpec
from harness.worker import identity


def test_the_observed_values() -> None:
    seen = identity.observe(run_spec(ModelSpec("tiny")))
    assert seen.threads == torch.get_num_threads()
    assert set(seen.affinity) == os.sched_getaffinity(0)
    assert seen.torch == torch.__version__
    assert seen.fingerprint == identity.fingerprint(seen)


def test_the_checkout_is_told_with_what_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert identity.checkout(tmp_path) == (None, None)
    (tmp_path / ".commit").write_text("\n")  # built from sources without their history
    assert identity.checkout(tmp_path) == (None, None)
    (tmp_path / ".commit").write_text("123abc\n")
    assert identity.checkout(tmp_path) == ("123abc", False)
    (tmp_path / ".commit").write_text("123abc\n M harness/run/host.py\n")
    assert identity.checkout(tmp_path) == ("123abc", True)
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert identity.checkout(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("two")
    assert identity.checkout(tmp_path) == (commit, True)


def test_only_named_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setenv("HF_TOKEN", "a secret")
    seen = identity.observe(run_spec(ModelSpec("tiny")))
    assert seen.env["MALLOC_ARENA_MAX"] == "2"
    assert "a secret" not in json.dumps(dataclasses.asdict(seen))


@pytest.mark.parametrize(
    ("host", "setting"),
    [(HostSpec(threads=4096), "host.threads"), (HostSpec(cores="4095"), "host.cores")],
)
def test_host_settings_that_did_not_take_effect(host: HostSpec, setting: str) -> None:
    with pytest.raises(UserError) as caught:
        identity.observe(run_spec(ModelSpec("tiny"), host=host))
    assert caught.value.setting == setting


def test_host_settings_that_did() -> None:
    cores = ",".join(str(core) for core in os.sched_getaffinity(0))
    identity.observe(run_spec(ModelSpec("tiny"), host=HostSpec(threads=torch.get_num_threads(), cores=cores)))
    identity.observe(run_spec(ModelSpec("tiny"), host=HostSpec(cores="all")))


BASE = Identity(
    cpu="c", isa="avx512", torch="2", transformers="5", python="3", threads=2, affinity=(0, 1), env={}
)


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({}, True),
        ({"affinity": (4, 5)}, True),
        ({"env": {"BERT_OP_MAX_ISA": "avx2", "HF_HUB_OFFLINE": "1"}}, True),
        ({"op_build": {"commit": "x"}, "task": "encoder", "weights_source": "random"}, True),
        ({"cpu": "d"}, False),
        ({"isa": "avx2"}, False),
        ({"torch": "3"}, False),
        ({"threads": 1}, False),
        ({"affinity": (0,)}, False),
        ({"env": {"OMP_NUM_THREADS": "2"}}, False),
    ],
)
def test_fingerprint(changes: dict[str, object], comparable: bool) -> None:
    other = dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]
    assert (identity.fingerprint(other) == identity.fingerprint(BASE)) is comparable
