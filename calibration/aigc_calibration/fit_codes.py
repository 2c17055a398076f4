"""Round the weights of 8-bit products by what they are multiplied with.

The nearest code of each weight makes the error of the weight small. GPTQ makes that of the product small, with the
scales as they are: a code is chosen so that it makes up for what rounding the weights before it lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.accumulators import HALF_RANGE, fits
from aigc_calibration.config import QuantConfig
from aigc_calibration.gptq import gptq
from aigc_calibration.hessian import SampledMoments
from aigc_calibration.matrices import Reading, from_matrix, reading_of, to_matrix
from aigc_calibration.parallel import in_threads
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.sites import Site, find_sites, weight_array
from aigc_calibration.weights import QuantizedWeight, stored_codes
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["fit_codes", "moments_for"]

ROWS, LEAST_ROWS = 4, 2
"""Rows that are drawn for each number of a row, and the fewest that codes are fitted to."""
LARGEST_WIDTH = 4608
"""Of a row, as that of 3 x 3 pixels of 512 channels: the work grows with its cube."""
BUDGET_BYTES = 2**29
"""Of all matrices; the largest are left out."""


def moments_for(graph: ir.Model, config: QuantConfig, *, samples: int) -> SampledMoments:
    """Choose what is watched while a graph is calibrated, so that codes can be fitted.

    Args:
        graph: that is calibrated.
        config: names what stays float.
        samples: rows of the data.
    """
    sites = [site for site in find_sites(graph) if site.weight is not None and not config.why_float(site.module)]
    readings = dict.fromkeys(reading for site in sites if (reading := reading_of(graph, site)) is not None)
    taken, used = [], 0
    for reading in sorted(readings, key=lambda reading: reading.width):
        used += 2 * reading.width**2  # a triangle in float32
        if used > BUDGET_BYTES or reading.width > LARGEST_WIDTH:
            break
        taken.append(reading)
    return SampledMoments(taken, samples=samples, rows=ROWS)


def fit_codes(
    graph: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    moments: SampledMoments,
    *,
    threads: int | None = None,
) -> dict[str, QuantizedWeight]:
    """Round weights again, onto their scales.

    What was not watched, or on too few rows for its width, keeps its codes, and so does a weight whose sums would not
    fit in 32 bits with others.

    Args:
        graph: of the plan.
        plan: in `int8` or `fp8`.
        weights: rounded to the nearest codes.
        moments: of `moments_for`.
        threads: see `in_threads`.
    """
    sites = {site.node: site for site in find_sites(graph)}
    readings: dict[Reading, list[Site]] = {}
    for op in plan.quantized():
        reading = None if op.weight is None else reading_of(graph, sites[op.node])
        if reading is not None and moments.rows(reading) >= LEAST_ROWS * reading.width:
            readings.setdefault(reading, []).append(sites[op.node])
    fitted = in_threads(lambda group: _fitted(graph, *group, weights, moments), list(readings.items()), threads)
    return {**weights, **{weight.name: weight for group in fitted for weight in group}}


def _fitted(
    graph: ir.Model,
    reading: Reading,
    sites: list[Site],
    weights: Mapping[str, QuantizedWeight],
    moments: SampledMoments,
) -> list[QuantizedWeight]:
    hessian = moments.mean(reading)
    if not np.isfinite(hessian).all():
        return []
    found = []
    for site in sites:
        nearest = weights[str(site.weight)]
        matrix = to_matrix(site, weight_array(graph, nearest.name))
        scales = _of_outputs(nearest.scales, matrix.shape[1])
        (made,) = gptq([(nearest.name, matrix)], hessian, nearest.grid, block=None, scales=scales)
        codes = stored_codes(nearest.grid, from_matrix(site, made.codes))
        if nearest.grid.name != "int8" or fits(codes, nearest.axis, np.full(len(nearest.scales), HALF_RANGE)):
            found.append(replace(nearest, codes=codes))
    return found


def _of_outputs(scales: Array, outputs: int) -> Array:
    """The scale of each column; a ConvTranspose has several columns for each channel."""
    return np.repeat(scales, outputs // len(scales))
