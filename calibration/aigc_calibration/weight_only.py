"""Weights alone in 4 or 8 bits: rounded to nearest, by GPTQ, or behind AWQ's scales; activations stay float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.awq import awq_scales
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.digest import graph_digest
from aigc_calibration.gptq import gptq
from aigc_calibration.grids import GRIDS, Grid
from aigc_calibration.hessian import SecondMoments, collect_hessians
from aigc_calibration.limits import constant_problem
from aigc_calibration.matrices import Reading, reading_of, to_matrix
from aigc_calibration.parallel import in_threads
from aigc_calibration.plan import PLAN_VERSION, OpPlan, QuantizationPlan, SitePrecision, as_site_precision, inner_ops
from aigc_calibration.prepare import copy_graph
from aigc_calibration.sites import Site, find_sites, inner_sites, weight_array
from aigc_calibration.smooth import scale_constant, smoothable
from aigc_calibration.weights import QuantizedWeight, round_to_blocks
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["apply_awq", "quantize_weights", "readings_of", "weight_plan"]


def weight_plan(
    model: ir.Model, config: QuantConfig, *, precision: SitePrecision, transforms: tuple[str, ...] = ()
) -> QuantizationPlan:
    """Every weight that is a matrix, in blocks."""
    return QuantizationPlan(
        version=PLAN_VERSION,
        graph_sha256=graph_digest(model),
        precision=precision,
        transforms=transforms,
        ops=(
            *(_decide(model, site, config, precision) for site in find_sites(model)),
            *inner_ops(inner_sites(model)),
        ),
        tensors=(),
    )


def _decide(model: ir.Model, site: Site, config: QuantConfig, precision: SitePrecision) -> OpPlan:
    why, reading = "", reading_of(model, site)
    if site.weight is None:
        why = "it has no weight"
    elif kept := config.why_float(site.module):
        why = kept
    elif problem := constant_problem(model, site):
        why = problem
    elif reading is None:
        why = "its weight is no plain matrix"
    given, wider = _site_precision(site, config, precision), ""
    if given != precision:
        wider = "; the configuration gives it 8 bits"
    block = config.smallest_block if reading is None else config.block_of(given, reading.width)
    zero_points = " with zero points" if config.has_zero_points(given) else ""
    return OpPlan(
        node=site.node,
        op_type=site.op_type,
        module=site.module,
        precision="float" if why else given,
        activations=(),
        output=None,
        weight=site.weight,
        block=None if why else block,
        why=why or f"blocks of {block}{zero_points}, {config.method_for(precision)}{wider}",
    )


def _site_precision(site: Site, config: QuantConfig, precision: SitePrecision) -> SitePrecision:
    return "int8-weight" if precision == "int4-weight" and config.widens(site.module) else precision


def _grid(precision: SitePrecision) -> Grid:
    return GRIDS["int4" if precision == "int4-weight" else "int8"]


def _rounding(grid: Grid, block: int, zero_points: bool) -> Callable[[Array], Array]:
    return lambda weight: round_to_blocks(
        "", weight, grid, block, search=False, zero_points=zero_points
    ).dequantize()  # fmt: skip


def apply_awq(
    model: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[ir.Model, int]:
    """Fold AWQ's scales into a copy of the graph; returns it and how many values were scaled."""
    model = copy_graph(model)
    groups = {}
    for group in smoothable(model):
        reading = reading_of(model, group.sites[0])
        if reading is not None and reading.kind == "last":
            groups[reading] = group
    scaled = 0
    for reading, hessian in collect_hessians(model, data, groups, threads=threads, progress=progress):
        if not np.isfinite(hessian).all():
            continue
        group = groups[reading]
        own = _site_precision(group.sites[0], config, precision)
        weights = [to_matrix(s, weight_array(model, str(s.weight))) for s in group.sites]
        block = config.block_of(own, reading.width)
        s, alpha = awq_scales(weights, hessian, _rounding(_grid(own), block, config.has_zero_points(own)))
        if alpha == 0:
            continue
        for name, axis in group.folds:
            scale_constant(model, name, axis, 1 / s)
        for site in group.sites:
            scale_constant(model, str(site.weight), site.input_axis, s)
        scaled += 1
    return model, scaled


def quantize_weights(
    model: ir.Model,
    plan: QuantizationPlan,
    data: CalibrationData,
    config: QuantConfig,
    *,
    moments: SecondMoments | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, QuantizedWeight]:
    """Round the weights that a plan of `weight_plan` names, as matrices [in, out] in blocks.

    Args:
        model: the float graph.
        plan: of it.
        data: second moments are collected on it, unless they are given.
        config: methods.
        moments: of everything that is read by `readings_of(model, plan)`, and maybe more; they are used up.
        threads: of the engine.
        progress: called after every batch with the rows seen.
    """
    by_reading = readings_of(model, plan)
    if config.method_for(as_site_precision(plan.precision)) == "rtn":
        pairs = [pair for group in by_reading.values() for pair in group]
        rounded = in_threads(lambda pair: _to_nearest(model, *pair, config), pairs, threads)
        return {weight.name: weight for weight in rounded}
    found: dict[str, QuantizedWeight] = {}
    hessians = (
        collect_hessians(model, data, by_reading, threads=threads, progress=progress)
        if moments is None
        else ((reading, moments.mean(reading)) for reading in by_reading)
    )
    for reading, hessian in hessians:
        for precision, block, matrices in _alike(model, by_reading[reading]):
            zero_points = config.has_zero_points(precision)
            made = gptq(matrices, hessian, _grid(precision), block=block, zero_points=zero_points)
            found.update((weight.name, weight) for weight in made)
    return found


def readings_of(model: ir.Model, plan: QuantizationPlan) -> dict[Reading, list[tuple[Site, OpPlan]]]:
    """What the products of a plan read -> the sites that read it."""
    sites = {s.node: s for s in find_sites(model)}
    by_reading: dict[Reading, list[tuple[Site, OpPlan]]] = {}
    for op in plan.quantized():
        reading = reading_of(model, sites[op.node])
        assert reading is not None
        by_reading.setdefault(reading, []).append((sites[op.node], op))
    return by_reading


def _to_nearest(model: ir.Model, site: Site, op: OpPlan, config: QuantConfig) -> QuantizedWeight:
    name = str(op.weight)
    assert op.block is not None
    matrix, zero_points = to_matrix(site, weight_array(model, name)), config.has_zero_points(op.precision)
    return round_to_blocks(name, matrix, _grid(op.precision), op.block, zero_points=zero_points)


def _alike(
    model: ir.Model, group: Sequence[tuple[Site, OpPlan]]
) -> Iterator[tuple[SitePrecision, int | None, list[tuple[str, Array]]]]:
    """Gather the matrices, by name, that get one precision and blocks of one size."""
    by_grid: dict[tuple[SitePrecision, int | None], list[tuple[str, Array]]] = {}
    for site, op in group:
        assert op.precision != "float"
        matrix = to_matrix(site, weight_array(model, str(op.weight)))
        by_grid.setdefault((op.precision, op.block), []).append((str(op.weight), matrix))
    for (precision, block), matrices in by_grid.items():
        yield precision, block, matrices
