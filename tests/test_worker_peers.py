"""Backends of other projects: what is handed to them and read back, with substitutes; for real where their
environments are installed.
"""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from worker_tools import ARCHITECTURE, PAIRS, WORDS, make_checkpoint, path_model, run_spec, write_pairs

from harness.run import peers
from harness.run.launch import launch
from harness.values.errors import UserError
from harness.values.spec import BackendSpec, DataSpec, ModelSpec, RunSpec
from harness.worker import backends, calibration, weights
from harness.worker.backends import ipex, onnxruntime, openvino, rebuild
from harness.worker.data import Pairs
from harness.worker.tokens import Batch, random_batch

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")
THREADS = torch.get_num_threads()


@pytest.fixture
def model() -> transformers.PreTrainedModel:
    torch.manual_seed(2)
    return transformers.BertModel(transformers.BertConfig(**ARCHITECTURE)).eval()


def batch(rows: int = 2, seq_len: int = 8, seed: int = 5) -> Batch:
    return random_batch(len(WORDS), [seq_len - 1, *[seq_len] * (rows - 1)], seq_len, seed)


def spec(name: str, precision: str) -> RunSpec:
    graph = "jit" if name == "ipex" else "own"
    return run_spec(ModelSpec("tiny"), backend=BackendSpec(name, graph), precision=precision)


def substitute(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class Runtime:
    """Stands for a runtime of its own: it keeps a copy of the weights, as the real ones do, and is told what
    to do by settings that it can be asked for.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.settings: dict[str, str] = {}
        self.threads = threads
        self.calibrated: list[Any] = []

    def convert_model(self, head: torch.nn.Module, example_input: dict[str, torch.Tensor]) -> torch.nn.Module:
        head(**example_input)
        return copy.deepcopy(head)

    def quantize(self, model: Any, feed: Any, model_type: str, subset_size: int) -> Any:
        self.calibrated = feed
        assert (model_type, subset_size) == ("transformer", len(feed))
        return model

    def compile_model(self, converted: torch.nn.Module, device: str, settings: dict[str, str]) -> Runtime:
        self.converted, self.settings = converted, settings
        return self

    def get_property(self, name: str) -> Any:
        if name == "INFERENCE_NUM_THREADS":
            return self.threads or int(self.settings[name])
        return self.settings.get(name, object())

    def create_infer_request(self) -> Runtime:
        return self

    def infer(self, arrays: list[Any], share_inputs: bool) -> list[Any]:
        with torch.no_grad():
            return [self.converted(*map(torch.from_numpy, arrays)).numpy()]


def use_openvino(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    substitute(monkeypatch, "openvino", convert_model=runtime.convert_model, Core=lambda: runtime)
    substitute(
        monkeypatch, "nncf", quantize=runtime.quantize, set_log_level=lambda level: None,
        Dataset=lambda batches, transform: [transform(batch) for batch in batches],
        ModelType=types.SimpleNamespace(TRANSFORMER="transformer"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "hint"),
    [("fp32", "f32"), ("fp32_qint8", "f32"), ("bf16", "bf16"), ("bf16_qint8", "bf16")],
)
def test_openvino_gets_threads_and_precision_and_keeps_the_weights(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel, precision: str, hint: str
) -> None:
    runtime = Runtime()
    use_openvino(monkeypatch, runtime)
    reference = backends.reference_of(model)
    runner = backends.prepare(model, spec("openvino", precision), batch(), [batch(seed=6), batch(seed=7)])
    assert runtime.settings["INFERENCE_PRECISION_HINT"] == hint
    assert runtime.settings["INFERENCE_NUM_THREADS"] == str(THREADS) and runner.facts["threads"] == THREADS
    assert len(runtime.calibrated) == (2 if precision.endswith("qint8") else 0)
    # The torch weights are released, the reference's are not, and any shape is served.
    assert runner.model is None and all(weight.is_meta for weight in model.parameters())
    with torch.inference_mode():
        inputs = batch(3, 5).inputs
        torch.testing.assert_close(runner.call(*inputs), reference(*inputs))


def test_a_runtime_that_takes_other_threads_is_no_result(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel
) -> None:
    use_openvino(monkeypatch, Runtime(threads=THREADS + 1))
    with pytest.raises(RuntimeError, match=f"with {THREADS + 1} threads instead of {THREADS}"):
        backends.prepare(model, spec("openvino", "fp32"), batch())


def use_onnxruntime(monkeypatch: pytest.MonkeyPatch, attention: int) -> list[str]:
    done: list[str] = []

    def export(head: torch.nn.Module, inputs: Any, path: str, **options: Any) -> None:
        assert head.model.config._attn_implementation == "eager"
        assert options["dynamic_axes"]["attention_mask"] == {0: "batch", 1: "seq_len"}
        done.append("export")

    def optimize(path: str, **options: Any) -> Any:
        assert (options["num_heads"], options["hidden_size"]) == (2, 64)
        return types.SimpleNamespace(
            get_fused_operator_statistics=lambda: {"Attention": attention, "Other": 1},
            save_model_to_file=lambda target: Path(target).write_text("fused"),
        )

    def quantize(source: str, target: str, **options: Any) -> None:
        done.append(f"quantize {Path(source).read_text()}")
        Path(target).write_text("int8")

    class Session:
        def __init__(self, path: str, options: Any, providers: list[str]) -> None:
            done.append(f"load {Path(path).read_text()}")
            self.options = options

        def get_session_options(self) -> Any:
            return self.options

        def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
            return [feed["input_ids"].astype("float32")]

    monkeypatch.setattr(torch.onnx, "export", export)
    substitute(monkeypatch, "onnx", TensorProto=types.SimpleNamespace(FLOAT=1))
    substitute(
        monkeypatch, "onnxruntime", SessionOptions=types.SimpleNamespace, InferenceSession=Session
    ).__path__ = []  # type: ignore[attr-defined]
    substitute(monkeypatch, "onnxruntime.transformers").__path__ = []  # type: ignore[attr-defined]
    substitute(monkeypatch, "onnxruntime.transformers.optimizer", optimize_model=optimize)
    substitute(
        monkeypatch, "onnxruntime.quantization", quantize_dynamic=quantize,
        QuantType=types.SimpleNamespace(QInt8="int8"),
    )  # fmt: skip
    return done


@pytest.mark.parametrize(
    ("precision", "steps"),
    [("fp32", ["export", "load fused"]), ("fp32_qint8", ["export", "quantize fused", "load int8"])],
)
def test_onnxruntime_is_fused_before_it_is_quantized(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel, precision: str, steps: list[str]
) -> None:
    done = use_onnxruntime(monkeypatch, attention=ARCHITECTURE["num_hidden_layers"])
    runner = backends.prepare(model, spec("onnxruntime", precision), batch())
    assert done == steps
    assert runner.facts == {"threads": THREADS, "fused": {"Attention": 2}}
    assert torch.equal(runner.call(*batch().inputs), batch().input_ids.float())


def test_an_onnxruntime_without_fused_attention_is_no_result(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel
) -> None:
    use_onnxruntime(monkeypatch, attention=1)
    with pytest.raises(RuntimeError, match="attention of 1 of 2 layers"):
        backends.prepare(model, spec("onnxruntime", "fp32"), batch())


@pytest.mark.parametrize("precision", ["fp32", "fp32_qint8", "bf16", "bf16_qint8"])
def test_ipex_follows_its_recipe(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel, precision: str
) -> None:
    seen: list[Any] = []

    def optimize(head: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        seen.append((head.model.config._attn_implementation, dtype))  # type: ignore[union-attr]
        return head

    def prepare(head: torch.nn.Module, mapping: str, example_inputs: Any, inplace: bool) -> torch.nn.Module:
        head.register_forward_hook(lambda *call: seen.append("calibrated"))
        return head

    def convert(head: torch.nn.Module) -> torch.nn.Module:
        seen.append(torch.is_autocast_enabled("cpu"))
        head._forward_hooks.clear()
        return head

    quantization = types.SimpleNamespace(
        default_static_qconfig_mapping="static", prepare=prepare, convert=convert
    )
    substitute(monkeypatch, "intel_extension_for_pytorch", optimize=optimize, quantization=quantization)
    reference = backends.reference_of(model)
    runner = backends.prepare(model, spec("ipex", precision), batch(), [batch(seed=6), batch(seed=7)])
    bf16 = precision.startswith("bf16")
    expected: list[Any] = ["calibrated", "calibrated", bf16]
    assert seen == (
        expected if precision.endswith("qint8") else [("eager", torch.bfloat16 if bf16 else torch.float32)]
    )
    with torch.inference_mode():
        inputs = batch(3, 5).inputs
        torch.testing.assert_close(
            runner.call(*inputs).float(), reference(*inputs), rtol=0, atol=0.1 if bf16 else 1e-5
        )


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_that_its_python_lacks_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch, model: transformers.PreTrainedModel, name: str
) -> None:
    package = "intel_extension_for_pytorch" if name == "ipex" else name
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"make peers PEERS={name}"):
        backends.prepare(model, spec(name, "fp32"), batch())


@pytest.mark.parametrize(
    ("module", "library"),
    [(ipex, "intel_extension_for_pytorch"), (onnxruntime, "onnxruntime"), (openvino, "openvino")],
)
def test_the_version_of_a_peer_s_own_library_is_recorded(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, library: str
) -> None:
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"{package} 1.0")
    assert backends.versions(name)[library] == f"{library} 1.0"


def test_a_model_rebuilt_for_a_graph_optimizer_shares_weights_and_result(
    model: transformers.PreTrainedModel,
) -> None:
    rebuilt = rebuild.with_eager_attention(model)
    assert (rebuilt.config._attn_implementation, model.config._attn_implementation) == ("eager", "sdpa")
    pairs = zip(model.parameters(), rebuilt.parameters(), strict=True)
    assert all(one.data_ptr() == two.data_ptr() and not two.requires_grad for one, two in pairs)
    with torch.inference_mode():
        inputs = dict(zip(("input_ids", "attention_mask", "token_type_ids"), batch().inputs, strict=True))
        torch.testing.assert_close(rebuilt(**inputs)[0], model(**inputs)[0])


def test_calibration_takes_texts_where_there_are_some(tmp_path: Path) -> None:
    loaded = weights.load(path_model(make_checkpoint(tmp_path)), 0)
    first, second, labels = zip(*PAIRS, strict=True)
    wanted = run_spec(ModelSpec("tiny"))
    texts = calibration.batches(loaded, Pairs(first, second, labels), wanted)
    assert [len(one.input_ids) for one in texts] == [5]
    random = calibration.batches(loaded, None, wanted)
    assert sum(len(one.input_ids) for one in random) == calibration.SEQUENCES
    assert all(one.padded_tokens() > 0 for one in random)


@pytest.mark.parametrize("name", peers.PEERS)
def test_an_installed_peer_is_measured(tmp_path: Path, name: str) -> None:
    """int8, which takes every step that a peer has; in the peer's own environment."""
    try:
        peers.interpreter(BackendSpec(name))
    except peers.NotInstalled as missing:
        pytest.skip(str(missing))
    folder = make_checkpoint(tmp_path / "checkpoint")
    data = DataSpec("pairs", path=str(write_pairs(tmp_path / "pairs.tsv")))
    graph = "jit" if name == "ipex" else "own"
    wanted = run_spec(path_model(folder), data=data, backend=BackendSpec(name, graph), precision="fp32_qint8")
    report = launch(wanted, tmp_path / "run")
    assert report.failure is None and report.timing is not None and report.accuracy is not None
    assert report.accuracy.agreement is not None and report.accuracy.agreement >= 0.6
    assert report.accuracy.logit_max_abs is not None and report.accuracy.cosine_min is None
    assert report.backend["threads"] == report.identity.threads
    assert len(report.identity.packages) >= 3
