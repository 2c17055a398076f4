"""Choose how far channels are equalized by what it does to the outputs.

What is gained in results is paid in the weights that read them: a weight of a channel that was made smaller has fewer
codes. Which of the two counts more depends on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.eight_bit_noise import Judge
from aigc_calibration.equalize import equalize
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["STRENGTHS", "choose_equalization"]

STRENGTHS = (0.0, 0.5)
"""Of which the one with the least noise is taken: as it was, and half of the way, as SmoothQuant splits it."""


def choose_equalization(
    model: ir.Model,
    channels: Mapping[str, Array],
    data: CalibrationData,
    config: QuantConfig,
    *,
    leave: Collection[str],
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Try each strength on a few samples, with every site in 8 bits; see `Judge.noise`.

    Args:
        model: the prepared float graph.
        channels: see `equalize.equalize`.
        data: of which the first samples are used.
        config: exceptions.
        leave: see `equalize.channel_groups`.
        threads: of the engine.
        progress: called after every strength with how many were tried.
    """
    judge = Judge(model, data, config, threads=threads)
    noise = {}
    for tried, strength in enumerate(STRENGTHS, start=1):
        made, _ = equalize(model, channels, strength, leave=leave)
        noise[strength] = judge.noise(made)
        if progress is not None:
            progress(tried)
    return min(STRENGTHS, key=lambda strength: (noise[strength], strength))
