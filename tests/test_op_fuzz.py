"""Random configurations of the operators and kernels against plain torch in double precision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import bert_op  # noqa: F401 - registers the operators
import numpy as np
import op_reference
import pytest
import torch
from bert_op._library import build_info
from hypothesis import given
from hypothesis import strategies as st
from op_fuzzing import LAYOUTS, Case, cases, laid_out, make_mask, tried
from op_native import native, random_weights, seal
from torch import Tensor

KERNELS = native()
TIERS = build_info()["isa_available"]
ACTIVATIONS = {"none": lambda x: x, **op_reference.ACTIVATIONS}
# Of a row of the result, relative to its norm. A mask that is read wrongly costs far more than any of them.
ROW_ERROR = {"fp32": 1e-3, "fp32_qint8": 0.15, "bf16": 0.1, "bf16_qint8": 0.2}
DTYPE_ERROR = {torch.float32: 0.0, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For matrices this small, waking a second thread costs more than all there is to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pack(case: Case, weights: list[Tensor], factors: list[float]) -> Tensor:
    (packed,) = torch.ops.bert_op.prepack(
        weights,
        num_heads=case.num_heads,
        hidden_act=case.hidden_act,
        layer_norm_eps=case.layer_norm_eps,
        precision=case.precision,
        quantization_factors=factors,
    )
    return packed


@tried(600)
@given(cases())
def test_encoder_agrees_with_plain_torch(case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    weights = random_weights(
        generator, case.hidden_size, case.intermediate_size, case.num_layers, case.weight_dtype
    )
    weights = [laid_out(weight, case.mask_layout) for weight in weights]
    shape = (case.batch, case.seq_len, case.hidden_size)
    hidden_states = laid_out(torch.randn(shape, generator=generator).to(case.dtype), case.layout)
    mask = make_mask(case, generator)
    factors = [-6.0, 6.0] * (4 * case.num_layers) if case.static and "int8" in case.precision else []
    packed = pack(case, weights, factors)
    before = hidden_states.clone(), None if mask is None else mask.clone(), packed.clone()

    def run() -> Tensor:
        return torch.ops.bert_op.encoder(hidden_states, mask, [packed], skip_padding=case.skip_padding)

    output = run()
    if case.threads > 1:
        torch.set_num_threads(case.threads)
        try:
            assert torch.equal(run(), output), "the result depends on the number of threads"
        finally:
            torch.set_num_threads(1)
    assert output.dtype == case.dtype
    assert output.shape == shape
    assert torch.equal(hidden_states, before[0])
    assert mask is None or torch.equal(mask, before[1])
    assert torch.equal(packed, before[2])
    expected = op_reference.encoder(
        hidden_states,
        mask,
        weights,
        num_heads=case.num_heads,
        hidden_act=case.hidden_act,
        layer_norm_eps=case.layer_norm_eps,
        skip_padding=case.skip_padding,
    )
    skipped = expected.abs().sum(-1) == 0
    assert torch.all(output[skipped] == 0)
    errors = (output.double() - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1.0)
    assert errors.max() < ROW_ERROR[case.precision] + DTYPE_ERROR[case.dtype]


@tried(150)
@given(cases(), st.data())
def test_what_is_not_finite_stays_in_its_sequence(case: Case, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    packed = pack(case, random_weights(generator, case.hidden_size, case.intermediate_size), [])
    hidden_states = torch.randn(case.batch, case.seq_len, case.hidden_size, generator=generator)
    clean = torch.ops.bert_op.encoder(hidden_states, None, [packed])
    place = tuple(data.draw(st.integers(0, size - 1)) for size in hidden_states.shape)
    hidden_states[place] = data.draw(st.sampled_from((torch.nan, torch.inf, -torch.inf)))
    output = torch.ops.bert_op.encoder(hidden_states, None, [packed])
    assert not output[place[0], place[1]].isfinite().any()
    others = torch.arange(case.batch) != place[0]
    assert torch.equal(output[others], clean[others])


@st.composite
def matrices(draw: st.DrawFn, *sizes: int) -> np.ndarray[Any, Any]:
    """Of the given sizes, with values of one magnitude, in any strides."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(sizes, generator=generator) * draw(st.sampled_from((1e-3, 1.0, 30.0)))
    return laid_out(values, draw(st.sampled_from(LAYOUTS))).numpy()


@tried(400)
@given(st.data())
def test_gemm_agrees_with_plain_torch(data: st.DataObject) -> None:
    rows, k, n = (
        data.draw(st.integers(1, 70)),
        32 * data.draw(st.integers(1, 4) | st.integers(1, 30)),
        32 * data.draw(st.integers(1, 3)),
    )
    a, weight, bias = (data.draw(matrices(*sizes)) for sizes in ((rows, k), (n, k), (n,)))
    kind, activation = (
        data.draw(st.sampled_from(("f32", "bf16", "u8"))),
        data.draw(st.sampled_from(sorted(ACTIVATIONS))),
    )
    out_type, tier = data.draw(st.sampled_from(("f32", "bf16"))), data.draw(st.sampled_from(TIERS))
    output = torch.tensor(KERNELS.gemm(a, weight, bias, kind, activation, out_type, tier)).double()
    x, w, b = (torch.tensor(array).double() for array in (a, weight, bias))
    sums = x @ w.T + b
    size = x.abs() @ w.abs().T + b.abs()
    error = {"f32": 2e-6, "bf16": 2**-7}.get(kind, 0.0) * size + 1e-30
    if kind == "u8":  # half a step of the activations, half a step of the weights
        steps = (x.amax(1) - x.amin(1)) / 255, w.abs().amax(1) / 127
        error += (
            0.51 * (steps[0][:, None] * w.abs().sum(1) + x.abs().sum(1)[:, None] * steps[1]) + 1e-5 * size
        )
        error += 0.3 * k * steps[0][:, None] * steps[1]
    expected = ACTIVATIONS[activation](sums)
    if out_type == "bf16":
        error += 2**-8 * expected.abs() + (0 if activation in ("none", "relu") else 3e-4)
    assert torch.all((output - expected).abs() <= 1.2 * error + 1e-6)


@tried(300)
@given(st.data())
def test_attention_agrees_with_plain_torch(data: st.DataObject) -> None:
    seq_len, head_size = data.draw(st.integers(1, 80)), data.draw(st.sampled_from((32, 64, 96, 128)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    query, key, value = torch.randn(3, seq_len, head_size, generator=generator).unbind()
    shape = data.draw(st.sampled_from((None, (seq_len,), (seq_len, seq_len))))
    mask = torch.zeros(1, 1)
    if shape is not None:
        keep = torch.rand(shape, generator=generator) < data.draw(st.sampled_from((0.0, 0.3, 0.9, 1.0)))
        lowest = data.draw(st.sampled_from((-torch.inf, torch.finfo(torch.float32).min, -200.0)))
        mask = torch.randn(shape, generator=generator).masked_fill(~keep, lowest)
    kind, tier = data.draw(st.sampled_from(("f32", "bf16"))), data.draw(st.sampled_from(TIERS))
    scale = head_size**-0.5 * data.draw(st.sampled_from((0.5, 1.0, 3.0)))
    arrays = [tensor.numpy() for tensor in (query, key, value)]
    output = torch.tensor(
        KERNELS.attention(*arrays, None if shape is None else mask.numpy(), scale, kind, tier)
    )
    if kind == "bf16":
        query, key, value = (tensor.bfloat16() for tensor in (query, key, value))
    query, key, value = query.double(), key.double(), value.double()
    expected = op_reference.attention(query, key, value, scale, mask.double())
    assert (output - expected).abs().max() <= {"f32": 2e-5, "bf16": 0.03}[kind]


@tried(200)
@given(st.data())
def test_layer_norm_agrees_with_plain_torch(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 20)), 32 * data.draw(st.integers(1, 34))
    x, gamma, beta = (data.draw(matrices(*sizes)) for sizes in ((rows, columns), (columns,), (columns,)))
    eps, tier = data.draw(st.sampled_from((1e-12, 1e-5))), data.draw(st.sampled_from(TIERS))
    offset = data.draw(st.sampled_from((0.0, 3.0)))
    x = x + np.float32(offset)
    output = torch.tensor(KERNELS.layer_norm(x, gamma, beta, eps, tier)).double()
    wide = [torch.tensor(array).double() for array in (x, gamma, beta)]
    expected = torch.nn.functional.layer_norm(wide[0], (columns,), *wide[1:], eps=eps)
    amplified = 1 + offset / wide[0].std(dim=1, keepdim=True).clamp(min=eps**0.5)
    error = 1e-5 * amplified * wide[1].abs() + 1e-6 * wide[2].abs()
    assert torch.all((output - expected).abs() <= error)


SEED = torch.Generator().manual_seed(0)
PACKED: dict[str, Tensor] = {
    precision: torch.ops.bert_op.prepack(
        random_weights(SEED), num_heads=2, hidden_act="gelu", layer_norm_eps=1e-12, precision=precision
    )[0]
    for precision in ROW_ERROR
}


@tried(350)
@given(
    st.sampled_from(sorted(PACKED)),
    st.lists(
        st.tuples(st.integers(0, 4095) | st.integers(16, 72), st.integers(0, 255)), min_size=1, max_size=8
    ),
    st.booleans(),
    st.integers(-4096, 4096),
)
def test_no_bytes_lead_the_encoder_out_of_the_packed_model(
    precision: str, changes: list[tuple[int, int]], sealed: bool, growth: int
) -> None:
    """Made-up heads, with a right checksum or a wrong one, on a packed model that was cut or has grown."""
    size = max(4096, PACKED[precision].numel() + growth * (growth % 3 == 0))
    packed = torch.zeros(size, dtype=torch.uint8)
    packed[: PACKED[precision].numel()] = PACKED[precision][:size]
    for at, value in changes:
        packed[at] = value
    untouched = torch.equal(packed, PACKED[precision])
    if sealed:
        seal(packed)
    try:
        description = json.loads(torch.ops.bert_op.describe([packed]))
    except RuntimeError:
        assert not untouched
        return
    assert sealed or untouched
    assert description["bytes"] == packed.numel()
    hidden_states = torch.randn(1, 3, description["hidden_size"])
    assert torch.ops.bert_op.encoder(hidden_states, None, [packed]).shape == hidden_states.shape


@tried(100)
@given(st.binary(max_size=9000))
def test_random_bytes_are_no_packed_model(content: bytes) -> None:
    packed = torch.zeros(len(content), dtype=torch.uint8)
    packed.copy_(torch.tensor(list(content), dtype=torch.uint8))
    try:
        torch.ops.bert_op.encoder(torch.randn(1, 2, 64), None, [packed])
    except RuntimeError as error:
        assert "packed" in str(error)
    else:
        raise AssertionError("random bytes were taken for a packed model")


def test_every_byte_of_the_head_is_checked() -> None:
    packed = PACKED["bf16_qint8"].clone()
    for at in range(4096):
        packed[at] ^= 1 << at % 8
        try:
            torch.ops.bert_op.describe([packed])
        except RuntimeError:
            packed[at] ^= 1 << at % 8
        else:
            raise AssertionError(f"byte {at} was changed and nobody noticed")
    assert json.loads(torch.ops.bert_op.describe([packed]))["hidden_size"] == 64
