"""A corpus is embedded and searched: how fast, and whether the search finds what fp32 finds.

The timed calls are the batches of the corpus in turn, from the longest passages to the shortest, as
sentence-transformers orders them, so that little is padded.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.values import corpus as corpora
from harness.values.corpus import Corpus
from harness.values.errors import UserError
from harness.values.quality import Accuracy, Retrieval
from harness.values.spec import RunSpec
from harness.worker import accuracy, neighbours, scoring
from harness.worker.backends import Head
from harness.worker.data import Pairs
from harness.worker.tokens import Batch, length_order, text_batches
from harness.worker.weights import Loaded

TOKENIZE_PASSES = 3


def corpus_of(spec: RunSpec, loaded: Loaded, pairs: Pairs | None) -> Corpus | None:
    """What is searched; None for other workloads. UserError where model or data are of no use for it."""
    if spec.workload.name != "retrieval":
        return None
    if loaded.task != "sentence-embedding" or loaded.source == "random":
        what = "random weights" if loaded.source == "random" else f"task {loaded.task}"
        raise UserError(
            "workload", "retrieval", f"needs embeddings, and model {spec.model.name} has {what}",
            "Use model=minilm or another sentence-transformers checkpoint",
        )  # fmt: skip
    found = corpora.of_file(spec.workload)
    if found is None and pairs is not None:
        found = corpora.of_pairs(pairs)
    if found is None:
        raise UserError(
            "workload", "retrieval", f"has nothing to search: data={spec.data.name} has no text",
            "Use data=paraphrase, or workload.corpus=<folder or file>",
        )  # fmt: skip
    return found


def batches(loaded: Loaded, corpus: Corpus, spec: RunSpec) -> list[Batch]:
    """The passages, the longest first, cut at batch.seq_len; the last batch is filled up with the first."""
    return _batches(loaded, _longest_first(corpus), spec, full=True)


def tokenize_s(loaded: Loaded, corpus: Corpus, spec: RunSpec) -> float:
    """Seconds that tokenizing the corpus once takes, in batches as for the model."""
    texts, samples = _longest_first(corpus), []
    for _ in range(TOKENIZE_PASSES):
        begin = time.perf_counter()
        _batches(loaded, texts, spec, full=False)
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def measure(
    call: accuracy.Call, reference: Head, loaded: Loaded, corpus: Corpus, spec: RunSpec
) -> tuple[Accuracy, Retrieval]:
    """How far the embeddings of passages and queries are from the reference's, and what the search finds."""
    count, texts = len(corpus.passages), [*corpus.passages, *corpus.queries]
    order = length_order(texts)
    inputs = accuracy.Inputs(
        _batches(loaded, [texts[index] for index in order], spec, full=False), np.asarray(order)
    )
    found, expected = accuracy.embeddings(call, reference, inputs)
    cosines = scoring.cosines(found, expected)
    distance = Accuracy(
        samples=len(texts),
        top1=neighbours.overlap(found[:count], expected[:count], 1),
        top10=neighbours.overlap(found[:count], expected[:count], 10),
        worst=scoring.worst([(text,) for text in texts], 1 - cosines),
        data_digest=corpus.digest(),
        **scoring.of_cosines(cosines),
    )
    return distance, searched(found, expected, corpus)


def searched(found: NDArray[np.float32], expected: NDArray[np.float32], corpus: Corpus) -> Retrieval:
    """What the queries find by both embeddings, each (passages and then queries, hidden_size)."""
    count, queries = len(corpus.passages), len(corpus.queries)
    values: dict[str, Any] = {}
    for nearest in (1, 10):
        ours = neighbours.searched(found[count:], found[:count], nearest)
        theirs = neighbours.searched(expected[count:], expected[:count], nearest)
        if not queries or ours is None or theirs is None:
            continue
        values[f"overlap{nearest}"] = neighbours.shared(ours, theirs)
        values[f"recall{nearest}"] = _recall(ours, corpus)
        values[f"reference_recall{nearest}"] = _recall(theirs, corpus)
    return Retrieval(count, queries, **values)


def _recall(nearest: NDArray[np.int64], corpus: Corpus) -> float:
    hits = [bool(set(row) & set(right)) for row, right in zip(nearest.tolist(), corpus.right, strict=True)]
    return float(np.mean(hits))


def _longest_first(corpus: Corpus) -> list[str]:
    return [corpus.passages[index] for index in reversed(length_order(corpus.passages))]


def _batches(loaded: Loaded, texts: list[str], spec: RunSpec, *, full: bool) -> list[Batch]:
    tokenizer = accuracy.need_tokenizer(loaded, "workload", "retrieval")
    limit = min(accuracy.position_limit(loaded.model), spec.batch.seq_len)
    return text_batches(tokenizer, texts, spec.batch.size, limit=limit, full=full)
