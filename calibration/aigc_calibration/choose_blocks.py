"""Choose how many numbers of an 8-bit weight share a scale, by what they are multiplied with.

Kernels for weights in blocks round what they multiply with in the same blocks, when they run. Larger blocks are read
and multiplied faster, and a number that is many times as large as its neighbors sets the step of more of them.

An engine for prompts multiplies whole rows of codes faster still, which need one scale for all that is summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.blocks import kernel_block
from aigc_calibration.config import BLOCKS
from aigc_calibration.data import CalibrationData
from aigc_calibration.grids import GRIDS
from aigc_calibration.lookups import tied_weights
from aigc_calibration.matrices import Reading, to_matrix
from aigc_calibration.onnx_function import open_watched
from aigc_calibration.output_noise import first_batches
from aigc_calibration.parallel import in_threads
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.sites import weight_array
from aigc_calibration.weight_only import readings_of
from aigc_calibration.weights import round_to_blocks
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["choose_blocks", "largest_block", "rounded_rows", "whole_row"]

MOST_NOISE = 1.5
"""Of the noise of the smallest blocks, what larger ones may make. Of normal numbers 64 make 1.2 times as much, 128 make
1.44 times; of those that the last product of a language model read 64 made 3 times as much."""
MOST_ROW_NOISE = 4.0
"""The same of whole rows. Of normal numbers 576 make 2.0 times as much as 32, 2,048 make 2.4 times."""
LEAST_COLUMNS = 2
"""Columns of all weights of a value, by its width, from which on whole rows are worth their noise: turning what they
give takes the less of the time the more sums there are."""
ROWS, SAMPLES = 256, 2
"""Rows of each value that are multiplied, about, and samples that they are drawn from."""


def choose_blocks(
    model: ir.Model,
    plan: QuantizationPlan,
    data: CalibrationData,
    *,
    whole_rows: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> QuantizationPlan:
    """Give every weight of a plan the largest block that makes little more noise than its own.

    Weights that multiply the same value are taken together, so that they can be one product.

    Args:
        model: the float graph of the plan, as it is when its weights are rounded.
        plan: in `int8-weight`, all blocks of the smallest size.
        data: of which the first samples are read.
        whole_rows: whether a weight may have one scale for all that is summed; one that is tied to a table has none.
        threads: of the engine, and of the choice.
        progress: called after every batch with the rows seen.

    Raises:
        EngineError: the graph does not load or run.
    """
    readings = {reading: pairs for reading, pairs in readings_of(model, plan).items() if reading.kind == "last"}
    if not readings:
        return plan
    rows = _rows(model, data, list(readings), threads, progress)
    tied = tied_weights(model)

    def chosen(reading: Reading) -> tuple[int, float]:
        weights = [to_matrix(site, weight_array(model, str(site.weight))) for site, _ in readings[reading]]
        is_free = not tied & {site.weight for site, _ in readings[reading]}
        found = whole_row(rows[reading], weights) if whole_rows and is_free else None
        return found or largest_block(rows[reading], weights)

    found = dict(zip(readings, in_threads(chosen, list(readings), threads), strict=True))
    by_node = {op.node: found[reading] for reading, pairs in readings.items() for _, op in pairs}
    ops = [
        replace(op, block=by_node[op.node][0], why=_why(op.why, *by_node[op.node])) if op.node in by_node else op
        for op in plan.ops
    ]
    return replace(plan, ops=tuple(ops))


def largest_block(rows: Array, weights: Sequence[Array]) -> tuple[int, float]:
    """Choose the largest block whose products are little noisier than those of the smallest.

    Args:
        rows: [R, in], what is multiplied.
        weights: matrices [in, out].

    Returns:
        The block, and its noise by that of the smallest.
    """
    noise = {block: _noise(rows, weights, block) for block in BLOCKS if block <= rows.shape[1] or block == BLOCKS[0]}
    least = noise[BLOCKS[0]]
    if least <= 0:
        return BLOCKS[0], 1.0
    fits = [block for block in noise if rows.shape[1] % block == 0 and noise[block] <= MOST_NOISE * least]
    best = max(fits, default=BLOCKS[0])
    return best, noise[best] / least


def whole_row(rows: Array, weights: Sequence[Array]) -> tuple[int, float] | None:
    """Find whether one scale for a whole row of numbers, and for a whole column of a weight, makes little more noise.

    Args:
        rows: [R, in], what is multiplied.
        weights: matrices [in, out].

    Returns:
        The width and its noise by that of the smallest blocks; None where it makes too much, where few columns make it
        worth little, or where no block that kernels take divides it.
    """
    width = rows.shape[1]
    if kernel_block(width) is None or sum(weight.shape[1] for weight in weights) < LEAST_COLUMNS * width:
        return None
    least = _noise(rows, weights, BLOCKS[0])
    noise = _noise(rows, weights, width)
    if noise > MOST_ROW_NOISE * least:
        return None
    return width, noise / least if least > 0 else 1.0


def rounded_rows(rows: Array, block: int) -> Array:
    """Round rows [R, in] as kernels do: in blocks, to 255 codes around zero."""
    width = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (0, -width % block))).reshape(len(rows), -1, block)
    scales = np.abs(padded).max(axis=2, keepdims=True) / GRIDS["int8"].qmax
    codes = np.rint(np.divide(padded, scales, out=np.zeros_like(padded), where=scales > 0))
    return np.asarray((codes * scales).reshape(len(rows), -1)[:, :width], dtype=np.float32)


def _noise(rows: Array, weights: Sequence[Array], block: int) -> float:
    low = rounded_rows(rows, block)
    total = 0.0
    for weight in weights:
        rounded = round_to_blocks("", weight, GRIDS["int8"], block, search=False).dequantize()
        total += float(np.square(low @ rounded - rows @ weight, dtype=np.float64).sum())
    return total


def _why(why: str, block: int, noise: float) -> str:
    if block == BLOCKS[0]:
        return why
    if block not in BLOCKS:
        return why.replace(
            f"blocks of {BLOCKS[0]}", f"one scale for {block} numbers ({noise:.2f} times the noise of {BLOCKS[0]})"
        )
    return why.replace(f"blocks of {BLOCKS[0]}", f"blocks of {block} ({noise:.2f} times the noise of {BLOCKS[0]})")


def _rows(
    model: ir.Model,
    data: CalibrationData,
    readings: Sequence[Reading],
    threads: int | None,
    progress: Callable[[int], None] | None,
) -> dict[Reading, Array]:
    """Draw rows of every value that is read."""
    run, watch = open_watched(model, sorted({reading.value for reading in readings}), threads=threads)
    (batches,) = first_batches(data, run, SAMPLES, sets=1)
    found: dict[Reading, list[Array]] = {reading: [] for reading in readings}
    rng, seen = np.random.default_rng(0), 0
    for feeds in batches:
        values = watch(feeds)
        for reading in readings:
            found[reading].append(reading.drawn(values[reading.value], ROWS // SAMPLES, rng)[0])
        seen += len(next(iter(feeds.values())))
        if progress is not None:
            progress(seen)
    return {reading: np.concatenate(drawn) for reading, drawn in found.items()}
