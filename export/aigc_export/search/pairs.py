"""Choose the pairs of precisions that are searched for a family, and plan them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import Calibration
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import QdqFormat
from aigc_calibration.plan import SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.quantize import plan_calibrated
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.weight_only import quantize_weights, weight_plan

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PRECISION_PAIRS", "Precisions", "plan_pair", "precision_pairs", "without_exceptions"]

Precisions = tuple[SitePrecision, SitePrecision]
"""(low, high)."""

PRECISION_PAIRS: dict[str, tuple[Precisions, ...]] = {
    "text": (("int8", "float"), ("int4-weight", "int8-weight")),
    "diffusion": (("int8", "float"),),
    "gan": (("int8", "float"),),
}
"""family -> pairs of precisions."""


def precision_pairs(family: str, objective: str) -> tuple[Precisions, ...]:
    """Choose the pairs to search: for images, weights alone save bytes but no time."""
    found = PRECISION_PAIRS[family]
    weights: Precisions = ("int4-weight", "int8-weight")
    return found if objective != "size" or weights in found else (*found, weights)


def without_exceptions(config: QuantConfig) -> QuantConfig:
    """Drop the family's exceptions: the search itself finds what must stay float."""
    return replace(config, sensitive=(), attention=True, wide=())


def plan_pair(
    prepared: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    precisions: Precisions,
    form: QdqFormat,
    calibration: Calibration,
    *,
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
        threads: of the engine that reads the data.
    """
    low, high = precisions
    name = f"{low} / {high}"
    if high == "float":
        graph, plan = plan_calibrated(prepared, calibration, config, precision=low, form=form)
        weights = round_weights(graph, plan, config)
        return PrecisionPair(
            name=name, graph=graph, low=plan, low_weights=weights, high=None, high_weights={}, form=form
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
    )
