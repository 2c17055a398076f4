"""The loss curve of a training: rows kept with its state, as CSV, and drawn where matplotlib is installed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from aigc_runtime.errors import CheckpointError

__all__ = ["CURVE_FILE", "PLOT_FILE", "Curve"]

CURVE_FILE = "curve.csv"
PLOT_FILE = "curve.png"
MAX_ROWS = 10_000
HELD_OUT = "held_out_loss"


class Curve:
    """Losses over steps: `step, losses..., held_out_loss, learning_rate, seconds`.

    Args:
        steps: of the whole run; of a long one every so many steps are kept, `MAX_ROWS` at most.
    """

    def __init__(self, steps: int) -> None:
        self.stride = max(1, math.ceil(steps / MAX_ROWS))
        self.columns: list[str] = []
        self.rows: list[list[str]] = []

    def add(self, step: int, losses: Mapping[str, float], *, learning_rate: float, seconds: float) -> None:
        """Keep a step, if it is one of those kept; one with a held-out loss always is."""
        if step % self.stride and HELD_OUT not in losses:
            return
        if not self.columns:
            self.columns = ["step", *(n for n in losses if n != HELD_OUT), HELD_OUT, "learning_rate", "seconds"]
        for name in losses.keys() - set(self.columns):  # of a part of the loss that begins later
            at = self.columns.index(HELD_OUT)
            self.columns.insert(at, name)
            for row in self.rows:
                row.insert(at, "")
        values = {**losses, "learning_rate": learning_rate}
        shown = [f"{values[n]:.6g}" if n in values else "" for n in self.columns[1:-1]]
        self.rows.append([str(step), *shown, f"{seconds:.1f}"])

    def csv(self) -> bytes:
        """Write the curve as CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([self.columns, *self.rows] if self.columns else [])
        return out.getvalue().encode()

    def read(self, data: bytes, *, step: int) -> None:
        """Take over the rows of an earlier part of the run, up to `step`.

        Raises:
            CheckpointError: no such file.
        """
        try:
            header, *rows = list(csv.reader(io.StringIO(data.decode("utf-8")))) or [[]]
            kept = [row for row in rows if int(row[0]) <= step]
            if any(len(row) != len(header) for row in kept):
                raise ValueError("a row has another number of columns than the first")
        except (ValueError, IndexError, csv.Error) as err:
            raise CheckpointError(
                f"{CURVE_FILE} beside the training state is damaged: {err}", hint="put it back as it was, or remove it"
            ) from err
        self.columns, self.rows = header, kept

    def png(self) -> bytes | None:
        """Draw the curve as PNG; None where matplotlib is not installed, or there is nothing to draw."""
        if len(self.rows) < 2:
            return None
        try:
            figures: Any = import_module("matplotlib.figure")
        except ImportError:
            return None
        figure = figures.Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for index, name in enumerate(self.columns[1:-2], start=1):
            points = [(int(row[0]), float(row[index])) for row in self.rows if row[index]]
            if points:
                marked = {"marker": "o", "markersize": 3} if name == HELD_OUT else {"linewidth": 1}
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), **marked)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        return buffer.getvalue()
