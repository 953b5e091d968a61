"""The way of a run: load, convert, first forward, accuracy, warm-up, measure; each rewrites the report.

Everything that imports torch is imported inside: the import is a phase of its own, and the hub's libraries
have to find HF_HUB_OFFLINE when they are loaded.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.values import reserve
from harness.values.errors import UserError
from harness.values.plain import write_json
from harness.values.report import PREDICTIONS_FILE, SAMPLES_FILE, Memory, Report, Retrieval
from harness.values.scorable import refuse_unscorable
from harness.values.spec import SCORED_TASKS, RunSpec, warmup
from harness.worker import hub
from harness.worker.journal import Journal

if TYPE_CHECKING:
    from harness.values.corpus import Corpus
    from harness.worker.backends import Runner
    from harness.worker.data import Pairs
    from harness.worker.tokens import Batch
    from harness.worker.weights import Loaded

BARRIER_POLL_SECONDS = 0.05
# What all others are compared with.
PLAIN = "hf-fp32"


def run(spec: RunSpec, journal: Journal, references: Path | None = None) -> None:
    """Carries out `spec` and leaves the result in `journal` and its folder.

    references: where the jobs of a sweep keep the reference's answers for each other, see references.py.

    Raises UserError for a wrong input and anything else for a defect; what was measured before is then on
    disk.
    """
    hub_problem = hub.go_offline_unless_reachable() if hub.needs_hub(spec) else None
    with journal.phase("import", "import_s"):
        import torch
        import transformers

        from harness.worker import (
            accuracy,
            backends,
            calibration,
            goal,
            identity,
            machine,
            peak,
            server,
            throughput,
            weights,
        )
        from harness.worker.references import Reference
        from harness.worker.workloads import retrieval

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    journal.record(identity=identity.observe(spec))

    with journal.phase("load", "load_s"):
        loaded = weights.load(spec.model, spec.seed, hub_problem=hub_problem)
        refuse_unscorable(spec, loaded.source, loaded.task, loaded.reason)
        pairs = _pairs(spec, loaded)
        corpus = retrieval.corpus_of(spec, loaded, pairs)
        batches = _timed_batches(spec, loaded, pairs, corpus)
    journal.record(
        identity=identity.with_model(journal.report.identity, loaded),
        memory=Memory(weights_mb=_megabytes(loaded.model.parameters())),
    )
    # Before any conversion, and before importing the op, which replaces Hugging Face's encoder.
    reference = None
    if spec.measure.accuracy:
        conditions = journal.report.identity.fingerprint or ""
        reference = Reference(backends.reference_of(loaded.model), references, conditions)

    if spec.backend.name == "op":
        with journal.phase("import op", "import_s"):
            backends.import_op()
        journal.record(identity=identity.with_op(journal.report.identity))
    with journal.phase("pack", "pack_s"):
        seen = calibration.batches(loaded, pairs, spec) if backends.needs_calibration(spec) else []
        aim = goal.goal_of(spec, loaded, pairs)
        runner = backends.prepare(loaded.model, spec, batches[0], seen, aim)
    journal.record(identity=identity.with_backend(journal.report.identity, spec), backend=runner.facts)
    with journal.phase("cold", "cold_ms"), torch.inference_mode():
        runner.call(*batches[0].inputs)
    with journal.phase("check"):
        _record_op(journal, runner, spec, batches[0])

    if reference is not None:
        call = runner.call
        if references is not None and spec.contender == PLAIN and isinstance(call, backends.Head):
            # Hugging Face as it is: what is measured is the reference, whose answers are the same twice.
            reference = call = Reference(call, references, reference.conditions)
        with journal.phase("accuracy", "accuracy_s"):
            rows: list[dict[str, Any]] = []
            if corpus is not None:
                result, found = retrieval.measure(call, reference, loaded, corpus, spec)
                journal.record(retrieval=found)
            else:
                result, rows = accuracy.measure(
                    call, reference, loaded, pairs, spec, in_place=runner.model is not None
                )
            if rows:
                write_json(journal.folder / PREDICTIONS_FILE, rows)
        journal.record(accuracy=dataclasses.replace(result, reference_reused=reference.reused))
        del reference

    if not spec.measure.throughput:
        return
    # Before the warm-up: whoever waits for another's accuracy would be cold again after it.
    with journal.phase("barrier"):
        _wait_for_others(spec)
    seconds, iterations = warmup(spec.run_time)
    with journal.phase("warm-up", "warmup_s"):
        if seconds or iterations:
            throughput.time_calls(
                runner.call, batches, seconds=seconds, iterations=iterations, title="warm-up"
            )
    with journal.phase("measure"):
        machine.trim_memory()
        peak_is_known = machine.reset_peak_memory()
        load = server if spec.load.name == "server" else throughput
        timing, samples = load.measure(runner.call, batches, loaded.model.config, spec)
        peak_mb = machine.peak_memory_mb() if peak_is_known else None
    _write_samples(journal.folder, samples)
    journal.record(timing=timing, memory=dataclasses.replace(journal.report.memory, peak_mb=peak_mb))
    if corpus is not None:
        with journal.phase("tokenize"):
            seconds = retrieval.tokenize_s(loaded, corpus, spec)
        known = journal.report.retrieval or Retrieval(len(corpus.passages), len(corpus.queries))
        journal.record(retrieval=dataclasses.replace(known, batches=len(batches), tokenize_s=seconds))
    if spec.backend.name == "op":
        with journal.phase("peak"):
            roof = peak.measure_peak(spec.precision, torch.get_num_threads())
        journal.record(timing=dataclasses.replace(timing, peak_fraction=peak.fraction(timing.tflops, roof)))


def _pairs(spec: RunSpec, loaded: Loaded) -> Pairs | None:
    """The labelled pairs, read only where something will use them."""
    from harness.worker import data

    if spec.workload.corpus is not None and not spec.target:
        return None
    text_is_timed = spec.measure.throughput and spec.batch.tokens == "text"
    scorable = loaded.source != "random" and loaded.task in SCORED_TASKS
    if text_is_timed or spec.target or (spec.measure.accuracy and scorable):
        return data.read_pairs(spec.data)
    return None


def _timed_batches(spec: RunSpec, loaded: Loaded, pairs: Pairs | None, corpus: Corpus | None) -> list[Batch]:
    """What the timed calls take in turn."""
    from harness.worker import accuracy, lengths, tokens
    from harness.worker.workloads import retrieval

    batch = spec.batch
    limit = accuracy.position_limit(loaded.model)
    if batch.seq_len > limit:
        raise UserError(
            "batch.seq_len", batch.seq_len, f"is not within what model {spec.model.name} can take",
            f"Use a length from 1 to {limit}",
        )  # fmt: skip
    if corpus is not None:
        return retrieval.batches(loaded, corpus, spec)
    if batch.tokens == "text" and pairs is not None:
        tokenizer = accuracy.need_tokenizer(loaded, "batch.tokens", batch.tokens)
        texts = tokens.texts_of(pairs, loaded.task)
        padded = batch.seq_len if batch.pad_to == "seq_len" else None
        limit = min(limit, batch.seq_len)
        return tokens.text_batches(tokenizer, texts, batch.size, limit=limit, seq_len=padded, full=True)
    vocabulary = loaded.model.config.vocab_size
    return [
        tokens.random_batch(
            vocabulary, row, batch.seq_len if batch.pad_to == "seq_len" else max(row), spec.seed + number
        )
        for number, row in enumerate(lengths.rows(batch, spec.seed))
    ]


def _record_op(journal: Journal, runner: Runner, spec: RunSpec, example: Batch) -> None:
    from harness.worker import backends

    explained = backends.check_op_runs(runner, spec, example)
    packed = explained.get("packed_bytes")
    memory = dataclasses.replace(
        journal.report.memory, packed_mb=packed / 1e6 if packed is not None else None
    )
    journal.record(op=explained, memory=memory)


def _wait_for_others(spec: RunSpec) -> None:
    """Returns when every instance of the job has come here; the parent ends a wait that takes too long."""
    if spec.barrier is None:
        return
    folder = Path(spec.barrier)
    (folder / f"ready-{spec.instance}").touch()
    while len(list(folder.glob("ready-*"))) < spec.host.instances:
        time.sleep(BARRIER_POLL_SECONDS)


def _megabytes(tensors: Any) -> float:
    """Size of distinct tensors in 1e6 bytes; weights that are tied count once."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values()) / 1e6


def _write_samples(folder: Path, samples: dict[str, Any]) -> None:
    import os

    import numpy as np

    # NumPy appends its ending to a name that lacks it, not to an open file; the rename makes it whole.
    temporary = folder / f"{SAMPLES_FILE}.part"

    def write() -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **samples)
        os.replace(temporary, folder / SAMPLES_FILE)

    reserve.written(folder, write)


def begin(spec: RunSpec, folder: Path) -> Journal:
    """A journal whose report says that the run has started."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return Journal(folder, Report(spec=spec, started_at=started))
