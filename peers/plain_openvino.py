"""BERT-base in OpenVINO as its documentation has it, without the harness: a second opinion on its figures.

.venv-peers/openvino/bin/python peers/plain_openvino.py --precision bf16 --batch 4 --seq-len 128
"""

import argparse
import statistics
import time

import nncf
import openvino
import torch
from transformers import BertConfig, BertModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--precision", choices=["fp32", "fp32_qint8", "bf16", "bf16_qint8"], default="fp32")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq-len", type=int, default=128)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

shape = (arguments.batch, arguments.seq_len)
inputs = {
    "input_ids": torch.randint(0, 30522, shape),
    "attention_mask": torch.ones(shape, dtype=torch.int64),
    "token_type_ids": torch.zeros(shape, dtype=torch.int64),
}
model = openvino.convert_model(BertModel(BertConfig()).eval(), example_input=inputs)
if arguments.precision.endswith("qint8"):
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    model = nncf.quantize(model, nncf.Dataset([arrays] * 8), model_type=nncf.ModelType.TRANSFORMER)
settings = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": arguments.threads,
    "INFERENCE_PRECISION_HINT": "bf16" if arguments.precision.startswith("bf16") else "f32",
}
compiled = openvino.compile_model(model, "CPU", settings)
feed = {name: tensor.numpy() for name, tensor in inputs.items()}


def run():
    return compiled(feed)


seconds = []
begin = time.perf_counter()
while time.perf_counter() - begin < 1.2 * arguments.seconds:
    start = time.perf_counter()
    run()
    end = time.perf_counter()
    if start - begin >= 0.2 * arguments.seconds:  # before that: warm-up
        seconds.append(end - start)
print(f"{arguments.batch / statistics.median(seconds):.2f} sequences/s, median of {len(seconds)} calls")
