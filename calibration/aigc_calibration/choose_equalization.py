"""Choose how far channels are equalized by what it does to the outputs.

What is gained in results is paid in the weights that read them: a weight of a channel that was made smaller has fewer
codes. Which of the two counts more depends on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import emit, plan_for
from aigc_calibration.equalize import equalize
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_function import Feeds, OnnxFunction, open_onnx, opened_when_called
from aigc_calibration.output_noise import judged_batches, output_noise, rows_of
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["STRENGTHS", "choose_equalization"]

STRENGTHS = (0.0, 0.5)
"""Of which the one with the least noise is taken: as it was, and half of the way, as SmoothQuant splits it."""
COUNTED = 3
"""Every so manyth number of a value is counted for its range."""


@dataclass(frozen=True)
class _Samples:
    """A few samples that are there."""

    feeds: Sequence[Feeds]

    @property
    def samples(self) -> int:
        """Number of samples, each of which is a row."""
        return self.rows

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return rows_of(self.feeds)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield them."""
        del run
        yield from (dict(feeds) for feeds in self.feeds)


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
    """Try each strength on a few samples, with every site in 8 bits and ranges that take no search (`percentile`).

    The graph is in ONNX Runtime's form, whatever the target is, and all its results count.

    Args:
        model: the prepared float graph.
        channels: see `equalize.equalize`.
        data: of which the first samples are used.
        config: exceptions.
        leave: see `equalize.channel_groups`.
        threads: of the engine.
        progress: called after every strength with how many were tried.
    """
    judged = judged_batches(data, opened_when_called(model, threads=threads))
    samples, exact = _Samples(judged), open_onnx(model, threads=threads)
    wanted = [exact(feeds) for feeds in judged]
    del exact
    noise = {}
    for tried, strength in enumerate(STRENGTHS, start=1):
        made, _ = equalize(model, channels, strength, leave=leave)
        names = watched(made, attention=config.attention)
        statistics = collect(made, samples, names, every=COUNTED, threads=threads)
        plan = make_plan(made, statistics, replace(config, ranges="percentile"), precision="int8")
        plan = plan_for(plan, UNSIGNED_FORMAT, made)
        weights = round_weights(made, plan, config, threads=threads)
        run = open_onnx(emit(made, plan, weights, UNSIGNED_FORMAT), threads=threads)
        noise[strength] = output_noise(run, judged, wanted)
        if progress is not None:
            progress(tried)
    return min(STRENGTHS, key=lambda strength: (noise[strength], strength))
