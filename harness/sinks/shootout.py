"""Speed against accuracy loss: one point for each contender of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.judge import floors
from harness.sinks import table
from harness.sinks.columns import labels
from harness.values.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"fp32": "o", "fp32_qint8": "s", "bf16": "^", "bf16_qint8": "D"}
# The op first, so that it keeps its colour whatever else is measured.
COLORS = {
    "op": "tab:blue", "hf": "tab:gray", "hf-jit": "silver", "hf-compile": "tab:brown",
    "hf-max-autotune": "tab:olive", "ipex": "tab:cyan", "openvino": "tab:purple", "onnxruntime": "tab:orange",
}  # fmt: skip
OTHER_COLOR = "black"


@dataclass(frozen=True)
class Point:
    """name: of the job, with what tells it apart. speed: sequences per second. loss: percentage points of
    accuracy below Hugging Face in fp32 on the same samples, negative where it is better; None where accuracy
    was not measured.
    """

    report: Report
    name: str
    speed: float
    loss: float | None

    @property
    def family(self) -> str:
        """The contender without its precision: what shares a colour."""
        return self.report.spec.contender.removesuffix(f"-{self.report.spec.precision}")


def points(reports: list[Report]) -> list[Point]:
    """Of every job whose speed was measured."""
    return [
        Point(report, name, report.timing.throughput_sps, _loss(report))
        for report, name in zip(reports, labels(reports), strict=True)
        if report.timing is not None
    ]


def absent(reports: list[Report]) -> list[str]:
    """One line for each thing that the chart does not show, or shows but cannot know, and why."""
    missing = [report.spec.backend.name for report in reports if report.not_installed]
    named = zip(reports, labels(reports), strict=True)
    failed = [name for report, name in named if report.timing is None and not report.not_installed]
    named = zip(reports, labels(reports), strict=True)
    short = [name for report, name in named if report.timing is not None and not floors.enough(report)]
    unscored = [r for r in reports if r.timing is not None and _loss(r) is None]
    lines = [f"not installed: {', '.join(dict.fromkeys(missing))}"] if missing else []
    lines += [f"not measured: {', '.join(dict.fromkeys(failed))}"] if failed else []
    lines += [f"{floors.TOO_FEW}: {', '.join(short)}"] if short else []
    reasons = dict.fromkeys(r.accuracy.absent_because for r in unscored if r.accuracy is not None)
    if unscored:
        why = "; ".join(reason for reason in reasons if reason) or "measure.accuracy is off"
        lines.append(f"accuracy was not measured: {why}")
    return lines


def figure(reports: list[Report]) -> Figure:
    """Speed to the right, accuracy loss upwards; without any accuracy each contender has a line of its own.

    Colour tells the backend, the marker the precision; a hollow marker was disturbed while measured.
    """
    from matplotlib.figure import Figure

    shown = points(reports)
    scored = any(point.loss is not None for point in shown)
    drawn = Figure(figsize=(9, 5.5 if scored else 1.8 + 0.27 * len(shown)), layout="constrained")
    axes: Axes = drawn.subplots()
    if scored:
        _scatter(axes, [(point, point.loss) for point in shown if point.loss is not None])
    else:
        _strip(axes, shown)
    noisy = any(point.report.timing is not None and point.report.timing.noisy for point in shown)
    axes.set_xlabel("sequences per second" + (" (hollow: disturbed while measured)" if noisy else ""))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.set_title("\n".join([table.title(reports), *absent(reports)]), fontsize=9)
    return drawn


def _scatter(axes: Axes, shown: list[tuple[Point, float]]) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    for point, loss in shown:
        axes.plot([point.speed], [loss], **_style(point), label=point.name)
    axes.set_ylabel("accuracy loss against Hugging Face fp32, points")
    # Sorted by speed, as the points lie from left to right.
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(shown)), key=lambda index: -shown[index][0].speed)
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, title="fastest first", title_fontsize=8,
    )  # fmt: skip


def _strip(axes: Axes, shown: list[Point]) -> None:
    ordered = sorted(shown, key=lambda point: point.speed)
    for place, point in enumerate(ordered):
        axes.plot([point.speed], [place], **_style(point))
    axes.set_yticks(range(len(ordered)), [point.name for point in ordered], fontsize=8)


def _style(point: Point) -> dict[str, Any]:
    color = COLORS.get(point.family, OTHER_COLOR)
    noisy = point.report.timing is not None and point.report.timing.noisy
    return {
        "marker": MARKERS.get(point.report.spec.precision, "x"), "color": color, "linestyle": "",
        "markersize": 8, "markerfacecolor": "none" if noisy else color,
    }  # fmt: skip


def _loss(report: Report) -> float | None:
    quality = report.accuracy
    if quality is None or quality.accuracy is None or quality.reference_accuracy is None:
        return None
    return 100 * (quality.reference_accuracy - quality.accuracy)
