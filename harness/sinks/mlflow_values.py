"""What MLflow calls params, tags and metrics of a report, and the names that people read: pure functions."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from harness.sinks import load_notes
from harness.values import settings
from harness.values.redact import redact
from harness.values.report import Report

# MLflow refuses longer values of a tag on some stores.
TAG_LIMIT = 5000
PARAM_LIMIT = 6000
# Of these the data say something: they are recorded together with the dataset they were measured on.
QUALITY = (
    "accuracy", "f1", "agreement", "flips", "mcnemar_p", "roc_auc", "threshold",
    "reference_accuracy", "reference_f1", "reference_roc_auc",
)  # fmt: skip


def params(report: Report) -> dict[str, str]:
    """The choices of the user."""
    spec = report.spec
    run_time = spec.run_time
    length = (
        f"{run_time.seconds:g} s" if run_time.seconds is not None else f"{run_time.iterations} iterations"
    )
    threads = report.identity.threads if report.identity.threads is not None else spec.host.threads
    values: dict[str, Any] = {}
    for name, value in settings.flat(spec).items():
        param = settings.of(name).elsewhere.param
        if param is not None:  # an entry of a dictionary has the name that it has itself
            values[name if param == "dotted" else param] = value
    # What says more than the setting alone.
    values |= {
        "run_time": length, "threads": threads, "lengths": load_notes.lengths(spec.batch),
        "bound_ms": spec.load.bound_ms if spec.load.name == "server" else None,
        "repetition": spec.repetition if spec.repetitions > 1 else None,
    }  # fmt: skip
    return {name: _short(value) for name, value in values.items() if value not in (None, {})}


def _short(value: Any) -> str:
    return redact(str(value))[:PARAM_LIMIT]


def tags(report: Report) -> dict[str, str]:
    """What ran, as it was observed."""
    identity = report.identity
    values: dict[str, Any] = {
        "contender": report.spec.contender, "status": report.status,
        "git_commit": identity.git_commit, "git_dirty": identity.git_dirty,
        "op_build": json.dumps(identity.op_build) if identity.op_build else None,
        "isa": identity.isa, "cpu": identity.cpu, "torch": identity.torch,
        "transformers": identity.transformers, "python": identity.python, "task": identity.task,
        "weights_source": identity.weights_source, "weights_reason": identity.weights_reason,
        "fingerprint": identity.fingerprint,
        "noisy": report.timing.noisy if report.timing else None,
        **_observed(report),
        "accuracy_absent_because": report.accuracy.absent_because if report.accuracy else None,
        "gate": report.accuracy.gate if report.accuracy else None,
        "data_digest": report.accuracy.data_digest if report.accuracy else None,
        "failure": f"{report.failure.kind}: {report.failure.message}" if report.failure else None,
    }  # fmt: skip
    return {name: redact(str(value))[:TAG_LIMIT] for name, value in values.items() if value is not None}


def _observed(report: Report) -> dict[str, Any]:
    """Where the measured window ran, and what could not be read of it."""
    timing = report.timing
    if timing is None:
        return {}
    found: dict[str, Any] = {
        "noisy_because": "; ".join(timing.noisy_because) or None,
        "energy": f"unavailable: {timing.energy.absent_because}" if timing.energy.joules is None else "RAPL",
    }
    if timing.observed is not None:
        found |= {
            "observed_threads": timing.observed.threads,
            "observed_cores": ",".join(map(str, timing.observed.cores)),
            "observed_numa_nodes": ",".join(map(str, timing.observed.numa_nodes)),
            "allocator": timing.observed.allocator,
        }
    if timing.server is not None and timing.server.met is not None:
        found["bound_met"] = timing.server.met
    return found


def quality_metrics(report: Report) -> dict[str, float]:
    """Every number about the answers that was measured; one that was not is absent."""
    quality = report.accuracy
    if quality is None:
        return {}
    values = {name: getattr(quality, name) for name in QUALITY}
    values |= {
        "error/logit_max_abs": quality.logit_max_abs, "error/cosine_min": quality.cosine_min,
        "error/cosine_mean": quality.cosine_mean, "error/cosine_p1": quality.cosine_p1,
        "neighbours/top1": quality.top1, "neighbours/top10": quality.top10, "spearman": quality.spearman,
    }  # fmt: skip
    for name in ("accuracy", "f1"):
        interval = getattr(quality, f"{name}_interval")
        if interval is not None:
            values |= {f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
    found = report.retrieval
    if found is not None:
        names = ("overlap1", "overlap10", "recall1", "recall10", "reference_recall1", "reference_recall10")
        values |= {f"retrieval/{name}": getattr(found, name) for name in names}
    return _known(values)


def speed_metrics(report: Report) -> dict[str, float]:
    """Every other number that was measured; one that was not is absent."""
    values: dict[str, float | None] = {}
    if report.timing is not None:
        timing = report.timing
        values |= {f"latency_ms/{name}": value for name, value in timing.latency_ms.items()}
        values |= {f"interference/{name}": value for name, value in timing.interference.items()}
        values |= {
            "throughput_sps": timing.throughput_sps, "tokens_per_s": timing.tokens_per_s,
            "tflops": timing.tflops, "peak_fraction": timing.peak_fraction, "calls": timing.count,
            "valid_tokens_per_call": timing.valid_tokens_per_call,
            "skipped_tokens_per_call": timing.skipped_tokens_per_call,
            "padded_tokens_per_call": timing.padded_tokens_per_call, "outliers": timing.outliers,
            "energy/joules": timing.energy.joules,
            "energy/joules_per_sequence": timing.energy.joules_per_sequence,
        }  # fmt: skip
        if report.retrieval is not None:
            values |= {
                "retrieval/passages_per_s": report.retrieval.passages_per_s(
                    timing.throughput_sps, timing.count
                ),
                "retrieval/tokenize_s": report.retrieval.tokenize_s,
            }
        if timing.server is not None:
            server = timing.server
            values |= {
                "server/rate": server.rate, "server/achieved_rate": server.achieved_rate,
                "server/service_ms": server.service_ms, "server/highest_rate": server.highest_rate,
            }  # fmt: skip
        if len(report.instances) > 1:
            values |= {
                "instances/min_sps": min(report.instances), "instances/max_sps": max(report.instances),
                "instances/spread": load_notes.spread(report.instances),
            }  # fmt: skip
    phases, memory = report.phases, report.memory
    values |= {
        "import_s": phases.import_s, "load_s": phases.load_s, "pack_s": phases.pack_s,
        "cold_ms": phases.cold_ms,
        "memory_mb/peak": memory.peak_mb, "memory_mb/weights": memory.weights_mb,
        "memory_mb/packed": memory.packed_mb,
    }  # fmt: skip
    return _known(values)


def run_name(report: Report, setting: str = "") -> str:
    """`op-bf16 minilm 4x128`: what ran, and the shape of a call; `#3` is the third of several repetitions.

    setting: what else tells it apart from the other jobs of its sweep, e.g. `seed 1`.
    """
    spec, batch = report.spec, report.spec.batch
    further = f" {setting}" if setting else ""
    number = f" #{spec.repetition + 1}" if spec.repetitions > 1 and report.repeated is None else ""
    return f"{spec.contender} {spec.model.name} {batch.size}x{batch.seq_len}{further}{number}"


def sweep_name(name: str, reports: list[Report]) -> str:
    """`quickstart: 5 jobs, minilm`: the question, and how much of an answer there is."""
    models = dict.fromkeys(report.spec.model.name for report in reports)
    return f"{name}: {len(reports)} job{'s' if len(reports) != 1 else ''}, {', '.join(models)}"


def started_ms(report: Report) -> int | None:
    """When the job began, in ms since 1970. A report's metrics carry this time: logged again, they are the
    same points and not further ones."""
    if report.started_at is None:
        return None
    return int(datetime.fromisoformat(report.started_at).timestamp() * 1000)


def ended_ms(report: Report) -> int | None:
    """When the job was over, as far as its phases tell, in ms since 1970."""
    started = started_ms(report)
    if started is None:
        return None
    lengths = vars(report.phases)
    seconds = sum(value for name, value in lengths.items() if name.endswith("_s") and value is not None)
    seconds += (report.phases.cold_ms or 0.0) / 1000
    seconds += report.timing.elapsed_s if report.timing is not None else 0.0
    return started + round(seconds * 1000)


def _known(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
