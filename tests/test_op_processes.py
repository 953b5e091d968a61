"""The op in other processes: started anew, forked after the parent used it, and workers that load data."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterator
from typing import Any

import bert_op
import pytest
import torch
from op_models import random_batch, random_model, tiny_config
from torch.utils.data import DataLoader, Dataset

SECONDS = 120  # after which a process that hangs is given up; none takes long


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def quantized_model() -> Any:
    # Large enough that torch itself uses several threads too, for the embeddings and their LayerNorm.
    config = tiny_config(hidden_size=256, num_attention_heads=8, intermediate_size=512)
    return bert_op.optimize(random_model(config), "bf16_qint8", keep_layers=[0]).requires_grad_(False)


def encode(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**random_batch(8, 64)).last_hidden_state.clone()


def encode_into(queue: Any, model: Any, train: bool = False) -> None:
    if train:
        model.train()
        model.eval()  # packs in this process
    queue.put((encode(model).numpy(), torch.get_num_threads(), bert_op.explain(model)["fallbacks"]))


def in_a_process(method: str, model: Any, train: bool = False) -> Any:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=encode_into, args=(queue, model, train), daemon=True)
    process.start()
    try:
        return queue.get(timeout=SECONDS)
    finally:
        process.kill()
        process.join()


def test_spawned_process_gives_bitwise_the_same() -> None:
    model = quantized_model()
    output, _, fallbacks = in_a_process("spawn", copy.deepcopy(model))
    assert torch.equal(torch.from_numpy(output), encode(model))
    assert fallbacks == []


@pytest.mark.parametrize("train", [False, True])
def test_forked_process_neither_hangs_nor_differs(train: bool) -> None:
    model = quantized_model()
    expected = encode(model)  # starts the OpenMP threads that the child will not have
    output, threads, fallbacks = in_a_process("fork", model, train)
    assert torch.equal(torch.from_numpy(output), expected)
    assert (threads, fallbacks) == (1, [])
    assert torch.equal(encode(model), expected)
    assert torch.get_num_threads() == 2


class Embedded(Dataset[torch.Tensor]):
    """Items that a worker embeds when it loads them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(**random_batch(2, 20, seed=index)).pooler_output.clone()


def test_data_loader_workers_use_the_op() -> None:
    data = Embedded(quantized_model())
    expected = [data[index] for index in range(len(data))]
    loader = DataLoader(data, batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=SECONDS)
    for found, value in zip(loader, expected, strict=True):
        torch.testing.assert_close(found[0], value, atol=1e-6, rtol=1e-5)  # the pooler sums by thread count
