"""SmoothQuant into the gains of normalizations alone, for weights in blocks of 8 bits.

Their kernels round what they multiply with in blocks of 8 bits too, when they run. A channel that is many times as
large as its neighbors sets the step of their block; what a gain holds back of it, the weights get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.collect import Statistics, collect
from aigc_calibration.data import CalibrationData
from aigc_calibration.few_samples import FewSamples
from aigc_calibration.lookups import tied_weights
from aigc_calibration.smooth import smooth, smoothable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["smooth_gains"]


def smooth_gains(
    model: ir.Model,
    data: CalibrationData,
    strength: float,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[ir.Model, int, Statistics | None]:
    """Divide gains by the magnitudes of their channels, and multiply the weights that read them.

    Args:
        model: of `prepare`; not changed. Gains in front of a weight that is tied to a table stay: both are stored once.
        data: of which a part is read.
        strength: 0 to 1, the alpha of `smooth.smooth`.
        threads: of the engine.
        progress: called after every batch with the rows seen.

    Returns:
        The graph, how many gains were divided, and of what samples; None, and the graph as it is, where it has none.

    Raises:
        CalibrationError: no data, or a value that is NaN.
    """
    tied = tied_weights(model)
    axes = {
        group.value: group.channel_axis
        for group in smoothable(model)
        if group.source == "gain" and not tied & {site.weight for site in group.sites}
    }
    if not axes:
        return model, 0, None
    seen = collect(model, FewSamples(data), (), channels=axes, threads=threads, progress=progress)
    channels = {name: found.channel_amax for name, found in seen.tensors.items() if found.channel_amax is not None}
    # Of numbers nothing was counted, so that nothing can be said of how they differ among the samples.
    return smooth(model, channels, {"gain": strength}), len(axes), replace(seen, tensors={})
