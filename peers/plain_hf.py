"""BERT-base in Hugging Face and torch alone, without the harness: a second opinion on backend=hf.

python peers/plain_hf.py --graph compile --precision bf16 --batch 4 --seq-len 128
"""

import argparse
import statistics
import time

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
parser.add_argument("--precision", choices=["fp32", "fp32_qint8", "bf16"], default="fp32")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq-len", type=int, default=128)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--graph", choices=["eager", "jit", "compile", "max-autotune"], default="eager")
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

shape = (arguments.batch, arguments.seq_len)
inputs = (
    torch.randint(0, 30522, shape),
    torch.ones(shape, dtype=torch.int64),
    torch.zeros(shape, dtype=torch.int64),
)
model = Positional(BertModel(BertConfig(), add_pooling_layer=False)).eval()
if arguments.precision == "bf16":
    model = model.to(torch.bfloat16)
if arguments.precision == "fp32_qint8":
    model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
if arguments.graph == "jit":
    with torch.inference_mode():
        model = torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False))
if arguments.graph == "compile":
    model = torch.compile(model)
if arguments.graph == "max-autotune":
    torch._inductor.config.freezing = True
    model = torch.compile(model, mode="max-autotune")


@torch.inference_mode()
def run():
    return model(*inputs)


run()  # compiles

seconds = []
begin = time.perf_counter()
while time.perf_counter() - begin < 1.2 * arguments.seconds:
    start = time.perf_counter()
    run()
    end = time.perf_counter()
    if start - begin >= 0.2 * arguments.seconds:  # before that: warm-up
        seconds.append(end - start)
print(f"{arguments.batch / statistics.median(seconds):.2f} sequences/s, median of {len(seconds)} calls")
