"""What nobody should pass to the operators, each tried in this process: a signal ends it, and the test fails.

Prints one line for each case: its name and the type of what was raised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import bert_op  # noqa: F401 - registers the operators
import numpy as np
import torch
from op_native import native, random_weights
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

KERNELS = native()
NOTHING = object()
OPS = torch.ops.bert_op
SIZES: dict[str, Any] = {
    "num_heads": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "precision": "bf16_qint8",
}
WEIGHTS = random_weights(torch.Generator().manual_seed(0))
PACKED = OPS.prepack(WEIGHTS, **SIZES)[0]
HIDDEN = torch.randn(2, 5, 64)
FACTORS = [-1.0, 1.0] * 4
HUGE = (65536, 262144)  # hidden and intermediate size


def prepack(weights: Any = WEIGHTS, **changes: Any) -> Callable[[], Any]:
    return lambda: OPS.prepack(weights, **{**SIZES, **changes})


def replaced(position: int, weight: Any) -> list[Any]:
    return [*WEIGHTS[:position], weight, *WEIGHTS[position + 1 :]]


def encoder(
    hidden_states: Any = HIDDEN, mask: Any = None, packed: Any = NOTHING, **options: Any
) -> Callable[[], Any]:
    packed = [PACKED] if packed is NOTHING else packed
    return lambda: OPS.encoder(hidden_states, mask, packed, **options)


def profiled(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` while this thread is being profiled."""

    def run() -> Any:
        OPS.start_profile()
        try:
            return call()
        finally:
            OPS.stop_profile()

    return run


def describe(packed: Any) -> Callable[[], Any]:
    return lambda: OPS.describe(packed)


def spoiled(at: int, value: float) -> Tensor:
    weight = WEIGHTS[at].clone()
    weight.view(-1)[3] = value
    return weight


def huge_weights() -> list[Tensor]:
    h, f = HUGE
    shapes = [*[(h, h), (h,)] * 4, (h,), (h,), (f, h), (f,), (h, f), (h,), (h,), (h,)]
    return [torch.zeros([1] * len(shape)).expand(shape) for shape in shapes] * 1024


def fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(tensor)


def misaligned(tensor: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, dtype=torch.uint8), tensor))[1:]


def in_fake_mode(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return call()

    return run


ZERO = torch._efficientzerotensor
NAN, INF = float("nan"), float("inf")

OPERATORS: dict[str, Callable[[], Any]] = {
    "prepack nothing": prepack([]),
    "prepack 15 tensors": prepack(WEIGHTS[:15]),
    "prepack scalars": prepack([torch.tensor(1.0)] * 16),
    "prepack empty tensors": prepack([torch.zeros(0, 0)] * 16),
    "prepack a wrong shape": prepack(replaced(4, torch.zeros(64, 63))),
    "prepack a transposed shape": prepack(replaced(10, WEIGHTS[12])),
    "prepack integers": prepack(replaced(0, torch.zeros(64, 64, dtype=torch.int64))),
    "prepack complex numbers": prepack(replaced(0, torch.zeros(64, 64, dtype=torch.complex64))),
    "prepack a meta tensor": prepack(replaced(5, WEIGHTS[5].to("meta"))),
    "prepack a sparse tensor": prepack(replaced(0, WEIGHTS[0].to_sparse())),
    "prepack an mkldnn tensor": prepack(replaced(0, WEIGHTS[0].to_mkldnn())),
    "prepack None": prepack(replaced(0, None)),
    "prepack a fake tensor": prepack(replaced(0, fake(WEIGHTS[0]))),
    "prepack NaN": prepack(replaced(0, spoiled(0, NAN))),
    "prepack infinity": prepack(replaced(9, spoiled(9, -INF))),
    "prepack more than fp32 holds": prepack(replaced(0, torch.full((64, 64), 1e300, dtype=torch.float64))),
    "prepack more than there is memory": lambda: OPS.prepack(huge_weights(), **{**SIZES, "num_heads": 512}),
    "input norm too short": prepack(input_norm=torch.ones(2, 63)),
    "input norm without bias": prepack(input_norm=torch.ones(64)),
    "input norm of integers": prepack(input_norm=torch.ones(2, 64, dtype=torch.int64)),
    "input norm on meta": prepack(input_norm=torch.ones(2, 64, device="meta")),
    "input norm sparse": prepack(input_norm=torch.ones(2, 64).to_sparse()),
    "input norm NaN": prepack(input_norm=torch.full((2, 64), NAN)),
    "no heads": prepack(num_heads=0),
    "negative heads": prepack(num_heads=-2),
    "more heads than integers": prepack(num_heads=2**64),
    "the most heads": prepack(num_heads=2**63 - 1),
    "heads that do not divide": prepack(num_heads=3),
    "heads of 16": prepack(num_heads=4),
    "eps negative": prepack(layer_norm_eps=-1.0),
    "eps NaN": prepack(layer_norm_eps=NAN),
    "eps beyond fp32": prepack(layer_norm_eps=1e300),
    "eps as text": prepack(layer_norm_eps="small"),
    "activation unknown": prepack(hidden_act="silu"),
    "activation with a zero byte": prepack(hidden_act="gelu\0"),
    "precision unknown": prepack(precision="int4"),
    "precision empty": prepack(precision=""),
    "precision None": prepack(precision=None),
    "factors too few": prepack(quantization_factors=FACTORS[:7]),
    "factors NaN": prepack(quantization_factors=[NAN, *FACTORS[1:]]),
    "factors infinite": prepack(quantization_factors=[-INF, *FACTORS[1:]]),
    "factors beyond fp32": prepack(quantization_factors=[-1e300, 1e300, *FACTORS[2:]]),
    "factors in the wrong order": prepack(quantization_factors=[1.0, -1.0, *FACTORS[2:]]),
    "hidden states fp64": encoder(HIDDEN.double()),
    "hidden states integers": encoder(HIDDEN.long()),
    "hidden states complex": encoder(HIDDEN.cfloat()),
    "hidden states 2-D": encoder(HIDDEN[0]),
    "hidden states 4-D": encoder(HIDDEN[None]),
    "hidden states scalar": encoder(torch.tensor(1.0)),
    "hidden states too wide": encoder(torch.randn(2, 5, 96)),
    "hidden states of no width": encoder(torch.randn(2, 5, 0)),
    "hidden states sparse": encoder(HIDDEN.to_sparse()),
    "hidden states mkldnn": encoder(HIDDEN.to_mkldnn()),
    "hidden states quantized": encoder(torch.quantize_per_tensor(HIDDEN, 0.1, 0, torch.qint8)),
    "hidden states nested": encoder(torch.nested.nested_tensor([HIDDEN[0], HIDDEN[1, :3]])),
    "hidden states fake": encoder(fake(HIDDEN)),
    "hidden states None": encoder(None),
    "hidden states huge": encoder(torch.zeros(1, 1, 64).expand(1 << 40, 1 << 10, 64)),
    "hidden states too long": encoder(torch.zeros(1, 1, 64).expand(1, 1 << 46, 64)),
    "mask of another batch": encoder(mask=torch.ones(3, 5)),
    "mask of another length": encoder(mask=torch.ones(2, 4)),
    "mask of no batch": encoder(mask=torch.ones(0, 5)),
    "mask of no length": encoder(mask=torch.ones(2, 0)),
    "mask 1-D": encoder(mask=torch.ones(5)),
    "mask 3-D": encoder(mask=torch.ones(2, 5, 5)),
    "mask 4-D of integers": encoder(mask=torch.ones(2, 1, 5, 5, dtype=torch.int32)),
    "mask 4-D complex": encoder(mask=torch.ones(2, 1, 5, 5, dtype=torch.complex64)),
    "mask of too many heads": encoder(mask=torch.ones(2, 3, 5, 5)),
    "mask of huge heads": encoder(mask=torch.ones(1, 1, 1, 1).expand(2, 1 << 40, 1, 5)),
    "mask meta": encoder(mask=torch.ones(2, 5, device="meta")),
    "mask sparse": encoder(mask=torch.ones(2, 5).to_sparse()),
    "mask fake": encoder(mask=fake(torch.ones(2, 5))),
    "mask nested": encoder(mask=torch.nested.nested_tensor([torch.ones(3), torch.ones(5)])),
    "mask of a batch that is empty": encoder(torch.zeros(0, 5, 64), torch.ones(3, 9)),
    "packed nothing": encoder(packed=[]),
    "packed meta": encoder(packed=[PACKED.to("meta")]),
    "packed empty": encoder(packed=[PACKED[:0]]),
    "packed cut": encoder(packed=[PACKED[:-1].clone()]),
    "packed grown": encoder(packed=[torch.cat((PACKED, PACKED))]),
    "packed floats": encoder(packed=[PACKED.float()]),
    "packed 2-D": encoder(packed=[PACKED[None]]),
    "packed with gaps": encoder(packed=[torch.stack((PACKED, PACKED), 1).flatten()[::2]]),
    "packed misaligned": encoder(packed=[misaligned(PACKED)]),
    "packed zeros": encoder(packed=[torch.zeros_like(PACKED)]),
    "packed zeros without memory": encoder(packed=[ZERO(PACKED.numel(), dtype=torch.uint8)]),
    "packed fake": encoder(packed=[fake(PACKED)]),
    "skip_padding as text": encoder(skip_padding="yes"),
    "an option that is none": encoder(causal=True),
    "plan nothing": lambda: OPS.plan(HIDDEN, None, []),
    "plan hidden states too wide": lambda: OPS.plan(torch.randn(2, 5, 96), None, [PACKED]),
    "plan hidden states meta": lambda: OPS.plan(HIDDEN.to("meta"), None, [PACKED]),
    "plan hidden states fake": lambda: OPS.plan(fake(HIDDEN), None, [PACKED]),
    "plan no positions": lambda: OPS.plan(torch.zeros(0, 5, 64), None, [PACKED]),
    "plan negative threads": lambda: OPS.plan(HIDDEN, None, [PACKED], threads=-1),
    "plan too many threads": lambda: OPS.plan(HIDDEN, None, [PACKED], threads=1 << 40),
    "describe nothing": describe([]),
    "describe meta": describe([PACKED.to("meta")]),
    "describe fake": describe([fake(PACKED)]),
    "describe zeros without memory": describe([ZERO(PACKED.numel(), dtype=torch.uint8)]),
    "describe sparse": describe([PACKED.to_sparse()]),
    "describe in fake mode": in_fake_mode(lambda: OPS.describe([fake(PACKED)])),
    "profile that nobody started": OPS.stop_profile,
    "profile that was started before": profiled(OPS.start_profile),
    "profile with an argument": lambda: OPS.start_profile(HIDDEN),
    "profile hidden states too wide": profiled(encoder(torch.randn(2, 5, 96))),
    "profile packed cut": profiled(encoder(packed=[PACKED, PACKED[:-1].clone()])),
    "profile a fake mask": profiled(encoder(mask=fake(torch.ones(2, 1, 5, 5)))),
    "profile a meta mask": profiled(encoder(mask=torch.ones(2, 1, 5, 5, device="meta"))),
    "profile that nobody started any more": OPS.stop_profile,
}


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def gemm(a: Any = None, weight: Any = None, bias: Any = None, kind: Any = "f32", **options: Any) -> Any:
    a = zeros(2, 32) if a is None else a
    weight, bias = zeros(32, 32) if weight is None else weight, zeros(32) if bias is None else bias
    return lambda: KERNELS.gemm(a, weight, bias, kind, **options)


def attention(q: Any, k: Any = None, v: Any = None, mask: Any = None, **options: Any) -> Callable[[], Any]:
    return lambda: KERNELS.attention(q, q if k is None else k, q if v is None else v, mask, **options)


def layer_norm(x: Any, gamma: Any, beta: Any, eps: Any = 1e-5) -> Callable[[], Any]:
    return lambda: KERNELS.layer_norm(x, gamma, beta, eps)


BINDINGS: dict[str, Callable[[], Any]] = {
    "gemm no rows": gemm(zeros(0, 32)),
    "gemm no k": gemm(zeros(2, 0), zeros(32, 0)),
    "gemm no n": gemm(weight=zeros(0, 32), bias=zeros(0)),
    "gemm odd k": gemm(zeros(2, 33), zeros(32, 33)),
    "gemm odd n": gemm(weight=zeros(31, 32), bias=zeros(31)),
    "gemm 1-D": gemm(zeros(32)),
    "gemm 3-D": gemm(zeros(2, 2, 32)),
    "gemm other k": gemm(zeros(2, 64)),
    "gemm other bias": gemm(bias=zeros(31)),
    "gemm 2-D bias": gemm(bias=zeros(1, 32)),
    "gemm NaN in the weights": gemm(weight=np.full((32, 32), NAN, np.float32)),
    "gemm type unknown": gemm(kind="int8"),
    "gemm activation unknown": gemm(activation="silu"),
    "gemm out_type unknown": gemm(out_type="u8"),
    "gemm tier unknown": gemm(isa="sse9"),
    "gemm text": gemm("a"),
    "gemm objects": gemm(np.array([[object()] * 32])),
    "gemm None": lambda: KERNELS.gemm(None, None, None, "f32"),
    "gemm huge": gemm(np.broadcast_to(zeros(1, 32), (1 << 46, 32))),
    "attention empty": attention(zeros(0, 32)),
    "attention no width": attention(zeros(3, 0)),
    "attention odd width": attention(zeros(3, 33)),
    "attention transposed keys": attention(zeros(64, 32), zeros(32, 64)),
    "attention other values": attention(zeros(64, 32), v=zeros(63, 32)),
    "attention other mask": attention(zeros(4, 32), mask=zeros(3)),
    "attention flat mask": attention(zeros(4, 32), mask=zeros(16)),
    "attention u8": attention(zeros(4, 32), type="u8"),
    "attention scale as text": attention(zeros(4, 32), scale="x"),
    "layer_norm empty": layer_norm(zeros(0, 32), zeros(32), zeros(32)),
    "layer_norm no width": layer_norm(zeros(3, 0), zeros(0), zeros(0)),
    "layer_norm odd width": layer_norm(zeros(3, 33), zeros(33), zeros(33)),
    "layer_norm other gamma": layer_norm(zeros(3, 32), zeros(31), zeros(32)),
    "layer_norm eps NaN": layer_norm(zeros(3, 32), zeros(32), zeros(32), NAN),
    "layer_norm eps negative": layer_norm(zeros(3, 32), zeros(32), zeros(32), -1.0),
    "measure_peak NaN": lambda: OPS.measure_peak("f32", NAN),
    "measure_peak for ever": lambda: OPS.measure_peak("f32", INF),
    "measure_peak negative": lambda: OPS.measure_peak("f32", -1.0),
    "measure_peak type unknown": lambda: OPS.measure_peak("f64"),
}


# AssertionError is how torch itself refuses fake tensors beside real ones; for a device without a kernel it
# raises a subclass of RuntimeError.
ERRORS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError, AssertionError)


def main() -> None:
    for name, call in {**OPERATORS, **BINDINGS}.items():
        print(name, end=": ", flush=True)
        try:
            call()
        except Exception as error:
            kinds = [kind.__name__ for kind in ERRORS if isinstance(error, kind)]
            print(kinds[0] if kinds else f"another error, {type(error).__name__}")
        else:
            print("accepted")
    print("done")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
