"""How far the outputs of a graph move: what choices between quantizations are made by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aigc_calibration.data import CalibrationData, short_rows
from aigc_calibration.onnx_function import Feeds, OnnxFunction
from aigc_runtime.core.tensors import Array

__all__ = [
    "LEAST_CHOICES",
    "LEAST_EVALUATIONS",
    "Judged",
    "few_rows",
    "first_batches",
    "judged_batches",
    "judged_sets",
    "most_evaluations",
    "output_noise",
    "relative_noise",
    "rows_of",
]

MOST_ROWS = 4
"""Rows of samples that a choice is judged on, where a batch has no more."""
LEAST_EVALUATIONS = 16
"""Runs over these rows that an order of sites takes at least; else all runs together read as many rows as there are
samples."""
LEAST_CHOICES = 6
"""The same for what every export chooses: each of a few methods for all, and something between them."""
MOST_EVALUATIONS = 32
"""Runs that a choice takes at most, however many samples there are."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Batches that a choice is judged on.

    Attributes:
        batches: each with rows of samples.
        weights: how much each counts, beside the others.
    """

    batches: Sequence[Feeds]
    weights: Sequence[float]


def few_rows(data: CalibrationData) -> int:
    """Rows that a choice is judged on: short ones where the data has them, and as many more of them."""
    rows = short_rows(data).rows
    return max(1, min(MOST_ROWS * rows // max(data.rows, 1), rows // LEAST_EVALUATIONS))


def most_evaluations(data: CalibrationData, judged: Iterable[Feeds], *, least: int = LEAST_EVALUATIONS) -> int:
    """Runs over batches of `judged_batches` that a choice may take."""
    return max(least, min(short_rows(data).rows // max(rows_of(judged), 1), MOST_EVALUATIONS))


def first_batches(data: CalibrationData, run: OnnxFunction, rows: int, *, sets: int) -> list[list[dict[str, Array]]]:
    """Take whole batches from the front of the data.

    Args:
        data: of which batches are taken.
        run: the float graph, for data that needs it.
        rows: that each set has at least, as long as there are any.
        sets: how many sets are made, one after the other.
    """
    found: list[list[dict[str, Array]]] = [[] for _ in range(sets)]
    for feeds in data.batches(run):
        wanting = next((batches for batches in found if rows_of(batches) < rows), None)
        if wanting is None:
            break
        wanting.append(feeds)
    return found


def judged_batches(data: CalibrationData, run: OnnxFunction) -> list[dict[str, Array]]:
    """The batches that a choice is judged on, from the front of the data.

    Args:
        data: of which batches are taken.
        run: the float graph, for data that needs it.
    """
    return judged_sets(data, run, sets=1)[0]


def judged_sets(data: CalibrationData, run: OnnxFunction, *, sets: int) -> list[list[dict[str, Array]]]:
    """Several such sets of batches, one behind the other; see `judged_batches`."""
    return first_batches(short_rows(data), run, few_rows(data), sets=sets)


def rows_of(batches: Iterable[Feeds]) -> int:
    """Rows of samples in all batches."""
    return sum(len(next(iter(feeds.values()))) for feeds in batches)


def output_noise(
    run: OnnxFunction,
    batches: Sequence[Feeds],
    wanted: Sequence[Mapping[str, Array]],
    weights: Sequence[float] | None = None,
) -> float:
    """Noise power of the outputs relative to their signal, sum (q - x)^2 / sum x^2; the mean over the outputs.

    Args:
        run: the graph that is judged.
        batches: what it is run on.
        wanted: the exact outputs x of each batch.
        weights: see `Judged`; None: all count alike.

    Returns:
        Infinity where an output is not finite.
    """
    return relative_noise(map(run, batches), wanted, weights)


def relative_noise(
    results: Iterable[Mapping[str, Array]],
    wanted: Sequence[Mapping[str, Array]],
    weights: Sequence[float] | None = None,
) -> float:
    """Noise power of results relative to their signal; see `output_noise`.

    Args:
        results: one set after the other.
        wanted: the exact ones.
        weights: see `Judged`; None: all count alike.
    """
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    for values, exact, weight in zip(results, wanted, weights or [1.0] * len(wanted), strict=True):
        for name, array in exact.items():
            exactly = array.astype(np.float32, copy=False)
            moved = _power(values[name].astype(np.float32, copy=False) - exactly)
            noise[name] = noise.get(name, 0.0) + weight * moved
            signal[name] = signal.get(name, 0.0) + weight * _power(exactly)
    shares = [noise[name] / signal[name] for name in noise if signal[name]]
    found = sum(shares) / len(shares) if shares else 0.0
    return found if math.isfinite(found) else math.inf


def _power(values: Array) -> float:
    """Sum of squares: in float32 within a row, in float64 over rows; all in float64 takes four times as long."""
    if not values.size:
        return 0.0
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    return float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))
