"""digests.py FILE.json: what the installed operators give, bit by bit, for comparing environments.

Weights and inputs come from Python's own generator, the same with every torch. Says where library and
torch are from, and ends with 1 if the process has more than one OpenMP runtime: their threads would fight for
the cores.
"""

import hashlib
import json
import random
import re
import sys
from pathlib import Path

import bert_op
import torch
from bert_op._library import loaded_from

HIDDEN, INTERMEDIATE, LAYERS, HEADS, ROWS, LENGTH = 128, 192, 2, 4, 3, 40


def tensor(numbers: random.Random, *shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
    values = [numbers.gauss(mean, std) for _ in range(torch.Size(shape).numel())]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(shape)


def weights(numbers: random.Random) -> list[torch.Tensor]:
    """The 16 tensors of each layer, of the size that trained ones have."""
    h, f = HIDDEN, INTERMEDIATE
    shapes = [*[(h, h), (h,)] * 4, (h,), (h,), (f, h), (f,), (h, f), (h,), (h,), (h,)]
    made = []
    for _ in range(LAYERS):
        for position, shape in enumerate(shapes):
            std = shape[1] ** -0.5 if len(shape) == 2 else 0.1
            made.append(tensor(numbers, *shape, std=std, mean=float(position in (8, 14))))
    return made


def main(file: Path) -> int:
    numbers = random.Random(20)
    layers = weights(numbers)
    hidden_states = tensor(numbers, ROWS, LENGTH, HIDDEN, std=1.0)
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [17], [1]])).long()
    found = {}
    for precision in ("fp32", "fp32_qint8", "bf16", "bf16_qint8"):
        for hidden_act in ("gelu", "relu"):
            packed = torch.ops.bert_op.prepack(
                layers, num_heads=HEADS, hidden_act=hidden_act, layer_norm_eps=1e-12, precision=precision
            )
            for name, given, skip in (("none", None, False), ("mask", mask, False), ("skipped", mask, True)):
                for dtype in (torch.float32, torch.bfloat16):
                    with torch.inference_mode():
                        output = torch.ops.bert_op.encoder(
                            hidden_states.to(dtype), given, packed, skip_padding=skip
                        )
                    bits = output.contiguous().view(torch.uint8).numpy().tobytes()
                    found[f"{precision} {hidden_act} {name} {dtype}"] = hashlib.sha256(bits).hexdigest()
    file.write_text(json.dumps(found, indent=1))
    print(f"torch {torch.__version__}, bert_op {bert_op.__file__}, library {loaded_from()}")
    # Before anything else is loaded that may bring one: what torch and the library have, and no more.
    maps = Path("/proc/self/maps").read_text()
    runtimes = sorted(set(re.findall(r"/\S*lib(?:gomp|iomp5|omp)[-.]\S*", maps)))
    print(f"OpenMP: {', '.join(runtimes)}")
    return int(len(runtimes) > 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
