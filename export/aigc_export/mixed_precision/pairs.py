"""Plan pairs of precisions that are searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import Calibration
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.formats import QdqFormat
from aigc_calibration.planner import round_weights
from aigc_calibration.quantize import plan_chosen
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.weight_only import quantize_weights, weight_plan
from aigc_export.workloads.base import Precisions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["plan_pair", "without_exceptions"]


def without_exceptions(config: QuantConfig) -> QuantConfig:
    """Drop the model's exceptions: the search itself finds what must stay float."""
    return replace(config, sensitive=(), attention=True, wide=())


def plan_pair(
    prepared: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    precisions: Precisions,
    form: QdqFormat,
    calibration: Calibration,
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
        calibration: ranges for activations.
        outputs: names of the results that count.
        threads: of the engine that reads the data.
    """
    low, high = precisions
    name = f"{low} / {high}"
    if high == "float":
        graph, plan = plan_chosen(
            prepared, data, calibration, config, precision=low, form=form, outputs=outputs, threads=threads
        )
        weights = round_weights(graph, plan, config)
        return PrecisionPair(
            name=name, graph=graph, low=plan, low_weights=weights, high=None, high_weights={}, form=form, config=config
        )
    plans = [weight_plan(prepared, config, precision=p) for p in precisions]
    codes = [quantize_weights(prepared, plan, data, config, threads=threads) for plan in plans]
    return PrecisionPair(
        name=name,
        graph=prepared,
        low=plans[0],
        low_weights=codes[0],
        high=plans[1],
        high_weights=codes[1],
        form=form,
        config=config,
    )
