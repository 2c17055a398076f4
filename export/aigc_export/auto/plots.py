"""Plots of a search: quality against time and size, and the noise of every site. Needs the `plot` extra."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.auto.report import SearchReport
from aigc_runtime.errors import ConfigError, EngineMissingError

__all__ = ["PLOT_FORMATS", "pareto_plot", "plot_format", "sensitivity_plot"]

PLOT_FORMATS = ("svg", "png", "pdf")
SHOWN = 40
"""Sites in the plot of sensitivity."""


def plot_format(suffix: str) -> str:
    """The format of a file name's suffix.

    Raises:
        ConfigError: not one of `PLOT_FORMATS`.
    """
    name = suffix.lower().removeprefix(".")
    if name not in PLOT_FORMATS:
        raise ConfigError(f"no plot in format {suffix!r}", hint=f"end the name with .{', .'.join(PLOT_FORMATS)}")
    return name


def _figure(width: float, height: float) -> Any:
    try:
        figure: Any = import_module("matplotlib.figure")
    except ImportError as err:
        raise EngineMissingError(
            "a plot needs matplotlib, which is not installed", hint="pip install 'aigc-export[plot]'"
        ) from err
    return figure.Figure(figsize=(width, height), layout="constrained")


def _drawn(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    # The same search gives the same file: no date, no random identifiers.
    matplotlib: Any = import_module("matplotlib")
    with matplotlib.rc_context({"svg.hashsalt": "aigc-export"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def pareto_plot(report: SearchReport, *, kind: str = "svg") -> bytes:
    """Every candidate's quality against its time and its size; the front is joined, the result circled.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    figure = _figure(11, 4.5)
    budget = report.budgets[0]
    axes = figure.subplots(1, 2, sharey=True)
    for ax, label, cost in (
        (axes[0], "ms a step, batch 1", lambda c: c.latency_ms),
        (axes[1], "engine, MB", lambda c: c.size_bytes / 1e6),
    ):
        points = sorted(((cost(c), _drawable(c.value), c) for c in report.candidates), key=lambda p: p[:2])
        best, front = None, []
        for x, y, _ in points:
            if best is None or (y < best if budget.upper else y > best):
                best = y
                front.append((x, y))
        ax.plot([x for x, _ in front], [y for _, y in front], color="0.7", zorder=1)
        for x, y, c in points:
            ax.scatter([x], [y], color="tab:green" if c.holds else "tab:red", zorder=2)
            if c.chosen:
                ax.scatter([x], [y], s=160, facecolors="none", edgecolors="black", zorder=3)
            ax.annotate(c.name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=7)
        ax.axhline(budget.limit, color="black", linestyle=":", linewidth=1)
        ax.set_xlabel(label)
    axes[0].set_ylabel(budget.measure)
    figure.suptitle(f"{report.model} on {report.target}: green keeps {budget.text}, circled is the result", fontsize=10)
    return _drawn(figure, kind)


def _drawable(value: float) -> float:
    """Decibels of fp32 lie far above all others: cut, so that the rest can be told apart."""
    return min(value, 100.0)


def sensitivity_plot(sites: Sequence[Sensitivity], title: str, *, kind: str = "svg") -> bytes:
    """Signal to noise with each site alone in low precision, the noisiest on top.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    shown = list(sites[:SHOWN])
    figure = _figure(9, 1.2 + 0.22 * len(shown))
    ax = figure.subplots()
    names = [f"{s.module or s.node} ({s.op_type})" for s in shown]
    rows = list(range(len(shown)))
    bars = ax.barh(rows, [s.sqnr_db for s in shown], color="tab:blue")
    ax.bar_label(bars, [f"{s.share:.1%}" for s in shown], fontsize=7, padding=2)
    ax.set_yticks(rows, names, fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("signal to noise of the outputs with this site alone in low precision, dB; its share of all noise")
    ax.set_title(title, fontsize=10)
    return _drawn(figure, kind)
