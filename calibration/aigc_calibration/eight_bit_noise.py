"""How far a graph's results move with sites in 8 bits: what is asked of a change to a graph before it is calibrated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import emit, plan_for
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_function import Feeds, OnnxFunction, open_onnx, opened_when_called
from aigc_calibration.output_noise import judged_batches, output_noise, rows_of
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_calibration.ranges import Method
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Judge"]

COUNTED = 3
"""Every so manyth number of a value is counted for its range."""
_LEFT_OUT = "not among the sites that are tried"


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


class Judge:
    """A few samples of a float graph, with its results."""

    def __init__(
        self, model: ir.Model, data: CalibrationData, config: QuantConfig, *, threads: int | None = None
    ) -> None:
        """Run the graph.

        Args:
            model: the prepared float graph.
            data: of which the first samples are used.
            config: exceptions.
            threads: of the engine.
        """
        judged = judged_batches(data, opened_when_called(model, threads=threads))
        exact = open_onnx(model, threads=threads)
        self._wanted: Sequence[Mapping[str, Array]] = [exact(feeds) for feeds in judged]
        self._samples = _Samples(judged)
        self._config = config
        self._threads = threads

    def noise(
        self, model: ir.Model, *, sites: Collection[str] | None = None, methods: Sequence[Method] = ("percentile",)
    ) -> float:
        """Noise of all results with sites in 8 bits, weights rounded to nearest.

        The graph is in ONNX Runtime's form, whatever the target is.

        Args:
            model: computes what the judge's graph does.
            sites: nodes that are in 8 bits; None: all.
            methods: of ranges; the noise is that of the best.
        """
        config, threads = self._config, self._threads
        names = watched(model, attention=config.attention)
        statistics = collect(model, self._samples, names, every=COUNTED, threads=threads)
        found, before = [], None
        for method in methods:
            plan = make_plan(model, statistics, replace(config, ranges=method), precision="int8")
            if sites is not None:
                others = (op.node for op in plan.quantized() if op.node not in sites)
                plan = plan.with_float(dict.fromkeys(others, _LEFT_OUT))
            plan = plan_for(plan, UNSIGNED_FORMAT, model)
            weights = round_weights(model, plan, config, before=before, threads=threads)
            before = plan, weights
            run = open_onnx(emit(model, plan, weights, UNSIGNED_FORMAT), threads=threads)
            found.append(output_noise(run, self._samples.feeds, self._wanted))
        return min(found)
