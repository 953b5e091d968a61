"""What has to be said of a load, of several instances, and of where they ran, beside the numbers."""

from __future__ import annotations

from harness.values.report import Report, Server, Timing
from harness.values.spec import BatchSpec


def of(report: Report, name: str | None = None) -> list[str]:
    """Sentences without which the numbers of this report could mislead. name: of the job; its contender."""
    found = []
    name, timing = name or report.spec.contender, report.timing
    if timing is not None and timing.server is not None:
        found.append(f"{name}: {_server(timing, timing.server, report.repeated is not None)}")
    if len(report.instances) > 1:
        low, high = min(report.instances), max(report.instances)
        found.append(
            f"{name}: {len(report.instances)} instances, of {low:.1f} to {high:.1f} seq/s each "
            f"(spread {spread(report.instances):.1%}); seq/s is their sum."
        )
    if timing is not None and timing.observed is not None:
        asked, worked = report.identity.threads, timing.observed.threads
        if len(report.instances) <= 1 and asked is not None and worked < asked:
            found.append(f"{name} could use {asked} threads; {worked} did the work.")
    return found


def spread(throughputs: tuple[float, ...]) -> float:
    """(highest - lowest) / mean of the instances' throughputs."""
    return (max(throughputs) - min(throughputs)) / (sum(throughputs) / len(throughputs))


def lengths(batch: BatchSpec) -> str:
    """The lengths of a batch's rows in a word or two."""
    if batch.tokens == "text":
        return "of text"
    if isinstance(batch.lengths, list):
        return ",".join(map(str, batch.lengths))
    return str(batch.lengths)


def _server(timing: Timing, server: Server, repeated: bool) -> str:
    bound = f"99 % within {server.bound_ms:g} ms"
    tried = f"{len(server.probes)} rates were tried"
    if server.highest_rate is not None:
        return f"the highest rate that keeps {bound} is {server.highest_rate:.2f} queries/s ({tried})."
    if server.probes and repeated:
        return f"not every repetition found a rate that keeps {bound} ({tried})."
    if server.probes:
        return f"no rate was found that keeps {bound} ({tried})."
    if server.met is None:
        return f"{timing.count} queries are too few to tell whether {bound} is kept: 662 are needed."
    if not server.met and server.service_ms > server.bound_ms:
        return f"{bound} cannot be kept: a call alone takes {server.service_ms:.1f} ms."
    return f"{server.rate:.2f} queries/s {'keep' if server.met else 'do not keep'} {bound}."


def retrieval(report: Report, name: str) -> list[str]:
    """What passages per second are of, and whether every passage took part in them."""
    found, timing = report.retrieval, report.timing
    if found is None or timing is None:
        return []
    told = ["seq/s is of the model alone, passages/s of tokenizing and then the model, in turn."]
    if found.batches is not None and timing.count < found.batches:
        told.append(
            f"{name}: only the {timing.count} longest of {found.batches} batches were timed; measure for "
            "longer, e.g. with run_time=standard."
        )
    return told
