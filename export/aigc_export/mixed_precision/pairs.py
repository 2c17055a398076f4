"""Plan pairs of precisions that are searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import CALIBRATED, Calibration
from aigc_calibration.calibrated_plan import plan_chosen
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.formats import QdqFormat
from aigc_calibration.quantize import fit_weights
from aigc_calibration.search.pair import PrecisionPair
from aigc_export.workloads.base import Precisions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["plan_pair", "without_exceptions"]


def without_exceptions(config: QuantConfig) -> QuantConfig:
    """Drop the model's exceptions: the search itself finds what must stay float."""
    return replace(config, sensitive=(), attention=True, wide=(), float_share=0.0)


def plan_pair(
    prepared: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    precisions: Precisions,
    form: QdqFormat,
    calibration: Calibration | None,
    *,
    outputs: Sequence[str],
    threads: int | None,
) -> PrecisionPair:
    """Plan both precisions of a pair, on every site that can take them.

    Args:
        prepared: the float graph, of `prepare`.
        data: that weights alone are fitted to.
        config: of `without_exceptions`.
        precisions: low and high precision.
        form: of the engine.
        calibration: ranges for activations; None for weights alone.
        outputs: names of the results that count.
        threads: of the engine that reads the data.
    """
    low, high = precisions
    name = f"{low} / {high}"
    if low in CALIBRATED:
        assert calibration is not None
        graph, plan, weights = plan_chosen(
            prepared, data, calibration, config, precision=low, form=form, outputs=outputs, threads=threads
        )
        return PrecisionPair(
            name=name,
            graph=graph,
            low=plan,
            low_weights=weights,
            high=None,
            high_weights={},
            form=form,
            config=config,
            statistics=calibration.statistics,
        )
    # Both precisions are of one graph: gains are smoothed for the one that gains by it, before the other is fitted.
    smooths = any(config.smooths_gains(one) for one in precisions if one != "float")
    made = fit_weights(prepared, data, config, precision=low, smooths=smooths, threads=threads)
    above = None
    if high != "float":
        # AWQ's scales, which are for the low precision, are in the graph by now.
        method = "gptq" if config.weight_method == "awq" else config.weight_method
        rest = replace(config, weight_method=method)
        above = fit_weights(made.graph, data, rest, precision=high, smooths=False, threads=threads)
    return PrecisionPair(
        name=name,
        graph=made.graph,
        low=made.plan,
        low_weights=made.weights,
        high=None if above is None else above.plan,
        high_weights={} if above is None else above.weights,
        form=form,
        config=config,
        statistics=made.statistics if made.statistics.batches else None,
    )
