"""What a report says of the answers: against labels, and against Hugging Face in fp32."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class WorstText:
    """A text, or a pair of them, and how far its result is off.

    error: of a decision's logits the largest difference from the reference; of an embedding 1 - cosine.
    """

    texts: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class Accuracy:
    """Quality on labelled text and distance to the reference (Hugging Face, fp32, same run, same inputs).

    Fractions are in 0..1. absent_because: why accuracy and f1 are None (random weights, no labels, ...).
    flips: decisions that differ from the reference. mcnemar_p: exact, on the decisions against the labels.
    gate: `99.9%`, `99%` or `below 99%` of the reference's accuracy, MLPerf style.
    cosine_min, cosine_mean, cosine_p1: of the cosines to the reference's embeddings (of a classifier, to its
        mean hidden states) the smallest, the mean, and the 1st percentile where there are enough of them.
    top1, top10: how many of each text's nearest, and ten nearest, others in the sample are the reference's
        too, mean over the distinct texts; of embeddings only.
    spearman: rank correlation of the pairs' cosines with the reference's.
    worst: the texts with the largest errors, the largest first.
    For embeddings: threshold is the reference's cosine of best accuracy, which decides for both models, and
    roc_auc is of the cosine.
    reference_reused: another job of the sweep had computed the reference's answers, see
    harness/worker/references.py.
    """

    samples: int = 0
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    f1: float | None = None
    f1_interval: Interval | None = None
    reference_accuracy: float | None = None
    reference_f1: float | None = None
    agreement: float | None = None
    flips: int | None = None
    mcnemar_p: float | None = None
    gate: str | None = None
    logit_max_abs: float | None = None
    cosine_min: float | None = None
    cosine_mean: float | None = None
    cosine_p1: float | None = None
    top1: float | None = None
    top10: float | None = None
    spearman: float | None = None
    threshold: float | None = None
    roc_auc: float | None = None
    reference_roc_auc: float | None = None
    data_digest: str | None = None
    absent_because: str | None = None
    reference_reused: bool = False
    worst: tuple[WorstText, ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """What workload=retrieval adds. Shares are in 0..1.

    passages, queries: how many were embedded, and how many searched among them.
    batches: calls that embed the corpus once, from the longest passages to the shortest.
    tokenize_s: tokenizing the corpus once, in the same batches; median of some passes.
    overlap1, overlap10: how many of the nearest, and ten nearest, passages of a query are the reference's
        too, mean over the queries (the measure of MLPerf's retrieval); None where there are too few passages.
    recall1, recall10: queries that find a right passage as the nearest, and among the ten nearest;
        reference_recall1 and reference_recall10 are those of Hugging Face in fp32.
    """

    passages: int
    queries: int = 0
    batches: int | None = None
    tokenize_s: float | None = None
    overlap1: float | None = None
    overlap10: float | None = None
    recall1: float | None = None
    recall10: float | None = None
    reference_recall1: float | None = None
    reference_recall10: float | None = None

    def passages_per_s(self, throughput_sps: float, calls: int) -> float | None:
        """Tokenizing and then the model, in turn, where the model alone does `throughput_sps`.

        None where not every batch was among the timed `calls`: the longest alone are slower than the corpus.
        """
        if self.tokenize_s is None or (self.batches is not None and calls < self.batches):
            return None
        return 1 / (1 / throughput_sps + self.tokenize_s / self.passages)
