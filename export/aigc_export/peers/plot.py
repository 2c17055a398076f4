"""A plot of a contest: speed against quality, as large as the model. Needs the `plot` extra."""

from __future__ import annotations

from aigc_export.mixed_precision.plots import drawn, make_figure
from aigc_export.peers.contest import Contest

__all__ = ["contest_plot"]

AREA = 3.0
"""Square points for a megabyte."""


def contest_plot(contest: Contest, *, kind: str = "svg") -> bytes:
    """Plot tokens a second against the increase of perplexity, a circle for each runtime, its area the model's size.

    Raises:
        EngineMissingError: matplotlib is not installed.
    """
    figure = make_figure(7, 4.5)
    axes = figure.subplots()
    for number, one in enumerate(contest.results):
        if one.laps is None or one.judgment is None:
            continue
        x, y = 1e3 / one.laps.token_ms(), 100 * one.judgment.increase[0]
        color = "tab:blue" if number == 0 else "tab:gray"
        axes.scatter([x], [y], s=AREA * one.size_bytes / 1e6, color=color, alpha=0.5)
        axes.annotate(f"{one.name}, {one.size_bytes / 1e6:.0f} MB", (x, y), fontsize=8)
    axes.set_xlabel("tokens a second, batch 1")
    axes.set_ylabel("increase of perplexity over PyTorch, %")
    axes.set_yscale("symlog", linthresh=1)
    axes.margins(0.2)
    return drawn(figure, kind)
