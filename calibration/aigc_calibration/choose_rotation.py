"""Choose whether residual streams are rotated by what it does to the outputs.

Where a stream has a few large channels, all that read it gain codes. Where it has none, its weights are mixed for
nothing, and those with large numbers of their own may lose codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.eight_bit_noise import Judge
from aigc_calibration.ranges import Method
from aigc_calibration.residual_streams import residual_streams
from aigc_calibration.rotate import rotate

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["TRIED", "choose_rotation"]

TRIED = 2
"""Graphs that are run: as it was, and rotated."""
_METHODS: tuple[Method, ...] = ("minmax", "percentile")
"""Large channels lose codes with one, and large numbers with the other: each graph has the better for it."""


def choose_rotation(
    model: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Compare both on a few samples, with the products that read a stream in 8 bits and all others float.

    Scales of weights are those of their largest numbers: to search narrower ones took a third of the time.

    Args:
        model: the prepared float graph, with a stream at least.
        data: of which the first samples are used.
        config: exceptions.
        threads: of the engine.
        progress: called after each of the two with how many were tried.
    """
    sites = {site.node for stream in residual_streams(model) for site in stream.sites}
    judge = Judge(model, data, replace(config, weight_ranges="minmax"), threads=threads)
    noise = []
    for tried in range(TRIED):
        made = rotate(model)[0] if tried else model
        noise.append(judge.noise(made, sites=sites, methods=_METHODS))
        del made
        if progress is not None:
            progress(tried + 1)
    return noise[1] < noise[0]
