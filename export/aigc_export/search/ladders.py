"""Which pairs of precisions are searched for a family, and the plans on both rungs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import Calibration
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import Form
from aigc_calibration.plan import SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.quantize import plan_calibrated
from aigc_calibration.search.ladder import Ladder
from aigc_calibration.weight_only import quantize_weights, weight_plan

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LADDERS", "Rungs", "build_ladder", "everything", "rungs_for"]

Rungs = tuple[SitePrecision, SitePrecision]
"""(low, high)."""

LADDERS: dict[str, tuple[Rungs, ...]] = {
    "text": (("int8", "float"), ("int4-weight", "int8-weight")),
    "diffusion": (("int8", "float"),),
    "gan": (("int8", "float"),),
}
"""family -> pairs of precisions."""


def rungs_for(family: str, objective: str) -> tuple[Rungs, ...]:
    """The pairs to search: for images, weights alone save bytes but no time."""
    found = LADDERS[family]
    weights: Rungs = ("int4-weight", "int8-weight")
    return found if objective != "size" or weights in found else (*found, weights)


def everything(config: QuantConfig) -> QuantConfig:
    """A configuration that keeps nothing float beforehand: what has to stay so, the search finds out."""
    return replace(config, sensitive=(), attention=True, wide=())


def build_ladder(
    prepared: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    rungs: Rungs,
    form: Form,
    calibration: Calibration,
    *,
    threads: int | None,
) -> Ladder:
    """Plans for both rungs, on every site that can take them.

    Args:
        prepared: the float graph, of `prepare`.
        data: that weights alone are fitted to.
        config: of `everything`.
        rungs: low and high precision.
        form: of the engine.
        calibration: ranges for activations.
        threads: of the engine that reads the data.
    """
    low, high = rungs
    name = f"{low} / {high}"
    if high == "float":
        graph, plan = plan_calibrated(prepared, calibration, config, precision=low, form=form)
        weights = round_weights(graph, plan, config)
        return Ladder(name=name, graph=graph, low=plan, low_weights=weights, high=None, high_weights={}, form=form)
    plans = [weight_plan(prepared, config, precision=p) for p in rungs]
    codes = [quantize_weights(prepared, plan, data, config, threads=threads) for plan in plans]
    return Ladder(
        name=name,
        graph=prepared,
        low=plans[0],
        low_weights=codes[0],
        high=plans[1],
        high_weights=codes[1],
        form=form,
    )
