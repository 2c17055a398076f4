"""From statistics to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.config import QuantConfig
from aigc_calibration.floatgraph import graph_digest
from aigc_calibration.grids import GRIDS, Grid
from aigc_calibration.plan import PLAN_VERSION, OpPlan, QuantizationPlan, SitePrecision, TensorPlan
from aigc_calibration.ranges import find_amax
from aigc_calibration.sites import Site, find_sites, weight_array
from aigc_calibration.weights import QuantizedWeight, round_to_channels

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["make_plan", "round_weights", "watched"]


def watched(model: ir.Model) -> set[str]:
    """The values whose ranges a plan needs: what enters a site, and the results of convolutions."""
    sites = find_sites(model)
    results = {s.output for s in sites if s.op_type == "Conv" and s.weight is not None}
    return {a for s in sites for a in s.activations} | results


def make_plan(
    model: ir.Model,
    statistics: Statistics,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    transforms: tuple[str, ...] = (),
) -> QuantizationPlan:
    """8-bit activations and weights on every site that can take them.

    Args:
        model: the prepared float graph that the statistics were collected on.
        statistics: of every value that `watched` names.
        config: methods and exceptions.
        precision: `int8` or `fp8`.
        transforms: what was done to the graph.
    """
    grid = GRIDS["fp8" if precision == "fp8" else "int8"]
    # Eight-bit floating point reaches far by itself: the largest value goes to the largest code.
    method = "minmax" if precision == "fp8" else config.method
    sites = find_sites(model)
    tensors = {
        name: _range(name, found, config, grid, method)
        for name, found in statistics.tensors.items()
        if not found.histogram.huge
    }
    ops = [_decide(site, config, precision, statistics, tensors) for site in sites]
    used = {name for op in ops if op.precision != "float" for name in (*op.activations, op.output)}
    return QuantizationPlan(
        version=PLAN_VERSION,
        graph_sha256=graph_digest(model),
        precision=precision,
        transforms=transforms,
        ops=tuple(ops),
        tensors=tuple(tensors[name] for name in sorted(tensors) if name in used),
    )


def _range(name: str, found: TensorStatistics, config: QuantConfig, grid: Grid, method: str) -> TensorPlan:
    whole, first, second = (
        find_amax(h, method, grid, percentile=config.percentile)  # type: ignore[arg-type]
        for h in (found.histogram, *found.halves)
    )
    return TensorPlan(name=name, amax=whole, method=method, instability=abs(first - second) / whole if whole else 0.0)


def _decide(
    site: Site,
    config: QuantConfig,
    precision: SitePrecision,
    statistics: Statistics,
    tensors: Mapping[str, TensorPlan],
) -> OpPlan:
    why = ""
    if config.keeps(site.module):
        why = "the configuration keeps it float"
    elif site.weight is None and not config.attention:
        why = "the configuration keeps products of activations float"
    elif masks := [a for a in site.activations if statistics.tensors[a].histogram.huge]:
        why = f"{masks[0]!r} holds a mask constant or infinity"
    elif zeros := [a for a in site.activations if not tensors[a].amax]:
        why = f"{zeros[0]!r} was zero in every sample"
    return OpPlan(
        node=site.node,
        op_type=site.op_type,
        module=site.module,
        precision="float" if why else precision,
        activations=site.activations,
        output=site.output if site.output in tensors else None,
        weight=site.weight,
        block=None,
        why=why or "within its calibrated range",
    )


def round_weights(model: ir.Model, plan: QuantizationPlan) -> dict[str, QuantizedWeight]:
    """The weights of all sites in 8 bits, rounded to nearest."""
    sites = {s.node: s for s in find_sites(model)}
    return {
        str(op.weight): round_to_channels(
            str(op.weight),
            weight_array(model, str(op.weight)),
            sites[op.node].channel_axis,
            GRIDS["fp8" if op.precision == "fp8" else "int8"],
        )
        for op in plan.quantised()
        if op.weight is not None
    }
