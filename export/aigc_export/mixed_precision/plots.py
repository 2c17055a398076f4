"""Plots of a search: quality against time and size, and the noise of every site. Needs the `plot` extra."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.mixed_precision.report import SearchReport, Timed
from aigc_export.recipes.budget import Budget
from aigc_runtime.errors import ConfigError, EngineMissingError

__all__ = ["PLOT_FORMATS", "drawn", "make_figure", "pareto_plot", "plot_format", "sensitivity_plot"]

PLOT_FORMATS = ("svg", "png", "pdf")
_TIMES: Mapping[Timed, str] = {"step": "ms a step, batch 1", "generation": "ms a generation, in the engines"}
SHOWN = 40
"""Sites in the plot of sensitivity."""


def plot_format(suffix: str) -> str:
    """Convert the suffix of a file name to a format.

    Raises:
        ConfigError: not one of `PLOT_FORMATS`.
    """
    name = suffix.lower().removeprefix(".")
    if name not in PLOT_FORMATS:
        raise ConfigError(f"no plot in format {suffix!r}", hint=f"end the name with .{', .'.join(PLOT_FORMATS)}")
    return name


def make_figure(width: float, height: float) -> Any:
    """Make an empty figure of matplotlib, inches wide and high.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    try:
        figure: Any = import_module("matplotlib.figure")
    except ImportError as err:
        raise EngineMissingError(
            "a plot needs matplotlib, which is not installed", hint="pip install 'aigc-export[plot]'"
        ) from err
    return figure.Figure(figsize=(width, height), layout="constrained")


def drawn(figure: Any, kind: str) -> bytes:
    """Draw a figure: the same bytes each time."""
    buffer = io.BytesIO()
    # The same search gives the same file: no date, no random identifiers.
    context: Any = getattr(import_module("matplotlib"), "rc_context")  # noqa: B009 - it has no types
    with context({"svg.hashsalt": "aigc-export"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def pareto_plot(report: SearchReport, *, kind: str = "svg") -> bytes:
    """Plot every candidate's quality against its time and its size; the front is joined, the result circled.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    figure = make_figure(12, 4.5)
    budget, candidates = report.budgets[0], report.candidates
    axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    top = _top([c.value for c in candidates], budget)
    for ax, label, costs in (
        (axes[0], _TIMES[report.timed], [c.latency_ms for c in candidates]),
        (axes[1], "engine, MB", [c.size_bytes / 1e6 for c in candidates]),
    ):
        points = [(cost, min(c.value, top), c) for cost, c in zip(costs, candidates, strict=True)]
        front: list[tuple[float, float]] = []
        for x, y in sorted((x, -y if not budget.upper else y) for x, y, _ in points):
            if not front or y < front[-1][1]:
                front.append((x, y))
        ax.plot([x for x, _ in front], [y if budget.upper else -y for _, y in front], color="0.8", zorder=1)
        for number, (x, y, c) in enumerate(points, 1):
            ax.scatter([x], [y], s=90, color="tab:green" if c.holds else "tab:red", zorder=2)
            ax.annotate(str(number), (x, y), ha="center", va="center", color="white", fontsize=7, zorder=4)
            if c.chosen:
                ax.scatter([x], [y], s=220, facecolors="none", edgecolors="black", zorder=3)
        ax.axhline(budget.limit, color="black", linestyle=":", linewidth=1)
        ax.set_xlabel(label)
        ax.set_ylabel(budget.measure if top == math.inf else f"{budget.measure}, cut at {top:.0f}")
    lines = [f"{number}  {c.name}: {c.value:.4g}" for number, c in enumerate(candidates, 1)]
    axes[2].axis("off")
    axes[2].text(0, 1, "\n".join(lines), fontsize=8, va="top", transform=axes[2].transAxes)
    figure.suptitle(f"{report.model} on {report.target}: green keeps {budget.text}, circled is the result", fontsize=10)
    return drawn(figure, kind)


def _top(values: Sequence[float], budget: Budget) -> float:
    """Choose the largest decibels shown: fp32 lies so far above all others that these would coincide."""
    if not budget.measure.endswith("_db"):
        return math.inf
    ordered = sorted(values)
    return max(budget.limit, ordered[-2] if len(ordered) > 1 else ordered[-1]) + 8


def sensitivity_plot(sites: Sequence[Sensitivity], title: str, *, kind: str = "svg") -> bytes:
    """Plot the signal-to-noise ratio with each site alone in low precision, the noisiest on top.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    shown = list(sites[:SHOWN])
    figure = make_figure(9, 1.2 + 0.2 * len(shown))
    ax = figure.subplots()
    names = [f"{s.module or s.node} ({s.op_type})" for s in shown]
    rows = list(range(len(shown)))
    bars = ax.barh(rows, [s.sqnr_db for s in shown], color="tab:blue")
    ax.bar_label(bars, [f"{s.share:.1%}" for s in shown], fontsize=7, padding=2)
    ax.set_yticks(rows, names, fontsize=7)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlabel("signal to noise of the outputs with this site alone in low precision, dB; its share of all noise")
    ax.set_title(title, fontsize=10)
    return drawn(figure, kind)
