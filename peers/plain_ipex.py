"""BERT-base in IPEX as its documentation has it, without the harness: a second opinion on its figures.

.venv-peers/ipex/bin/python peers/plain_ipex.py --precision bf16 --batch 4 --seq-len 128
"""

import argparse
import statistics
import time

import intel_extension_for_pytorch as ipex
import torch
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
parser.add_argument("--precision", choices=["fp32", "fp32_qint8", "bf16", "bf16_qint8"], default="fp32")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq-len", type=int, default=128)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

shape = (arguments.batch, arguments.seq_len)
inputs = (
    torch.randint(0, 30522, shape),
    torch.ones(shape, dtype=torch.int64),
    torch.zeros(shape, dtype=torch.int64),
)
bf16 = arguments.precision.startswith("bf16")
model = Positional(BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False)).eval()
with torch.no_grad():
    if arguments.precision.endswith("qint8"):
        mapping = ipex.quantization.default_static_qconfig_mapping
        model = ipex.quantization.prepare(model, mapping, example_inputs=inputs, inplace=False)
        for _ in range(8):
            model(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            model = ipex.quantization.convert(model)
    else:
        model = ipex.optimize(model, dtype=torch.bfloat16 if bf16 else torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        model = torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False, strict=False))


@torch.no_grad()
def run():
    return model(*inputs)


seconds = []
begin = time.perf_counter()
while time.perf_counter() - begin < 1.2 * arguments.seconds:
    start = time.perf_counter()
    run()
    end = time.perf_counter()
    if start - begin >= 0.2 * arguments.seconds:  # before that: warm-up
        seconds.append(end - start)
print(f"{arguments.batch / statistics.median(seconds):.2f} sequences/s, median of {len(seconds)} calls")
