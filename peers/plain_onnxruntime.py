"""BERT-base in ONNX Runtime as its documentation has it, without the harness: a second opinion.

.venv-peers/onnxruntime/bin/python peers/plain_onnxruntime.py --precision fp32_qint8 --batch 4 --seq-len 128
"""

import argparse
import statistics
import tempfile
import time

import onnxruntime
import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import BertConfig, BertModel


class Positional(torch.nn.Module):
    """Takes its inputs in order, which is how a tracer passes them."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask, token_type_ids):
        ids = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.bert(**ids).last_hidden_state


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--precision", choices=["fp32", "fp32_qint8"], default="fp32")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq-len", type=int, default=128)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

shape = (arguments.batch, arguments.seq_len)
names = ["input_ids", "attention_mask", "token_type_ids"]
inputs = (
    torch.randint(0, 30522, shape),
    torch.ones(shape, dtype=torch.int64),
    torch.zeros(shape, dtype=torch.int64),
)
bert = Positional(BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False)).eval()
with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/bert.onnx"
    axes = {name: {0: "batch", 1: "seq_len"} for name in names}
    torch.onnx.export(
        bert, inputs, path, input_names=names, output_names=["hidden_states"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    fused = optimizer.optimize_model(path, model_type="bert", num_heads=12, hidden_size=768, opt_level=1)
    print(fused.get_fused_operator_statistics())
    fused.save_model_to_file(path)
    if arguments.precision == "fp32_qint8":
        types = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(path, f"{folder}/int8.onnx", weight_type=QuantType.QInt8, extra_options=types)
        path = f"{folder}/int8.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}


def run():
    return session.run(None, feed)


seconds = []
begin = time.perf_counter()
while time.perf_counter() - begin < 1.2 * arguments.seconds:
    start = time.perf_counter()
    run()
    end = time.perf_counter()
    if start - begin >= 0.2 * arguments.seconds:  # before that: warm-up
        seconds.append(end - start)
print(f"{arguments.batch / statistics.median(seconds):.2f} sequences/s, median of {len(seconds)} calls")
