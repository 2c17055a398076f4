"""Make a plan from statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.accumulators import least_scales
from aigc_calibration.behind import length_behind
from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.config import QuantConfig
from aigc_calibration.digest import graph_digest
from aigc_calibration.grids import GRIDS, Grid
from aigc_calibration.histogram import Histogram
from aigc_calibration.limits import LEAST, constant_problem, value_problem
from aigc_calibration.parallel import in_threads
from aigc_calibration.plan import PLAN_VERSION, OpPlan, QuantizationPlan, SitePrecision, TensorPlan, inner_ops
from aigc_calibration.ranges import Method, affine_scale, find_amax, find_bounds
from aigc_calibration.sites import Site, copies, find_sites, inner_sites, weight_array
from aigc_calibration.weights import QuantizedWeight, channel_scales, round_to_channels
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["UNCHOSEN", "half_plan", "make_plan", "range_owners", "round_weights", "watched"]


def watched(model: ir.Model, *, attention: bool) -> set[str]:
    """List the values whose ranges a plan needs: what enters a site, and the results that an engine may quantize.

    Args:
        model: the float graph.
        attention: products of two activations as well, whose operands are many times as large as others.
    """
    sites = tuple(site for site in find_sites(model) if attention or site.weight is not None)
    return {a for s in sites for a in s.activations} | _results(model, sites)


def _results(model: ir.Model, sites: tuple[Site, ...]) -> set[str]:
    """Results of convolutions, transposed or not, and of products in front of Relu.

    ONNX Runtime has no 8-bit convolution with a float result, and leaves `MatMul -> Relu -> QuantizeLinear` float
    (1.32; `MatMul -> QuantizeLinear` becomes an integer product).
    """
    rectified = {str(n.inputs[0].name) for n in model.graph if n.op_type == "Relu" and n.inputs[0] is not None}
    return {
        s.output
        for s in sites
        if s.weight is not None
        and (s.op_type in {"Conv", "ConvTranspose"} or (s.op_type == "MatMul" and s.output in rectified))
    }


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
    method: Method = "minmax" if precision == "fp8" else UNCHOSEN if config.ranges == "auto" else config.ranges
    sites = find_sites(model)
    results, owners, saturating = _results(model, sites), range_owners(model), _saturating(model, sites)
    stops = {a for s in sites for a in s.activations}
    tensors: dict[str, TensorPlan] = {}
    for name, found in statistics.tensors.items():
        whole, chosen = found.histogram, "mse" if name in saturating else method
        if whole.huge:
            continue
        through = None
        if chosen == "mse" and name in results and owners.get(name) not in statistics.tensors:
            through = length_behind(model, name, whole.low, whole.high, stops=stops)
        tensors[name] = _range(name, found, config, grid, chosen, through)
    _share_ranges(owners, tensors)
    ops = [_decide(model, site, config, precision, statistics, tensors, results) for site in sites]
    used = {name for op in ops if op.precision != "float" for name in (*op.activations, op.output)}
    return QuantizationPlan(
        version=PLAN_VERSION,
        graph_sha256=graph_digest(model),
        precision=precision,
        transforms=transforms,
        ops=(*ops, *inner_ops(inner_sites(model))),
        tensors=tuple(tensors[name] for name in sorted(tensors) if name in used),
    )


UNCHOSEN: Method = "mse"
"""The method of ranges that are yet to be chosen."""
SATURATING = frozenset({"Tanh", "Sigmoid"})
"""Operators that flatten large numbers: the range in front of one has the least squared error behind it, whatever the
method, since the largest numbers say nothing."""


def _saturating(model: ir.Model, sites: tuple[Site, ...]) -> set[str]:
    """Results of sites that a saturating function alone reads."""
    outputs = {s.output for s in sites}
    read = [node.inputs[0] for node in model.graph if node.op_type in SATURATING]
    return {str(v.name) for v in read if v is not None and v.name in outputs and len(list(v.uses())) == 1}


def _range(
    name: str,
    found: TensorStatistics,
    config: QuantConfig,
    grid: Grid,
    method: Method,
    through: Callable[[Array], Array] | None,
) -> TensorPlan:
    whole, first, second = (
        find_amax(h, method, grid, percentile=config.percentile, through=through)
        for h in (found.histogram, *found.splits)
    )
    bounds = None
    if config.affine and grid.name == "int8":
        bounds = find_bounds(found.histogram, method, percentile=config.percentile, through=through, amax=whole)
    return TensorPlan(
        name=name,
        amax=whole,
        bounds=bounds,
        method=method,
        instability=abs(first - second) / whole if whole else 0.0,
    )


def range_owners(model: ir.Model) -> dict[str, str]:
    """Map the result of a site to the activation that it becomes, whose range it takes.

    Between `Conv -> Relu -> Resize -> Conv` the numbers are quantized twice. With one range for both, the second time
    changes nothing; what the first clips below zero, Relu would have cut off.
    """
    sites = find_sites(model)
    activations = {a for s in sites for a in s.activations}
    values = {str(v.name): v for n in model.graph for v in n.outputs}
    found = {}
    for site in sites:
        value = values[site.output]
        while True:
            readers = {node for node, _ in value.uses()}
            if len(readers) != 1 or not ((node := readers.pop()).op_type == "Relu" or copies(node)):
                break
            if node.graph is not model.graph:  # it is read in a body alone
                break
            value = node.outputs[0]
        if str(value.name) in activations and value.name != site.output:
            found[site.output] = str(value.name)
    return found


def _share_ranges(owners: Mapping[str, str], tensors: dict[str, TensorPlan]) -> None:
    """Give the result of a site the range of the activation that it becomes."""
    for output, owner in owners.items():
        if output in tensors and owner in tensors:
            tensors[output] = replace(tensors[owner], name=output, method=f"that of {owner}")


def _decide(
    model: ir.Model,
    site: Site,
    config: QuantConfig,
    precision: SitePrecision,
    statistics: Statistics,
    tensors: Mapping[str, TensorPlan],
    results: Set[str],
) -> OpPlan:
    why = ""
    # The result too, where an engine quantizes it.
    values = (*site.activations, *([site.output] if site.output in results else []))
    left_out = site.weight is None and not config.attention
    seen = {} if left_out else {v: statistics.tensors[v].histogram for v in values}
    if kept := config.why_float(site.module):
        why = kept
    elif left_out:
        why = "the configuration keeps products of activations float"
    elif len(site.shape) > 2 and site.op_type == "MatMul" and precision == "int8":
        why = "its weight is a stack of matrices"
    elif problem := value_problem(values, seen) or constant_problem(model, site, bias=True):
        why = problem
    elif zeros := [v for v in values if not tensors[v].amax]:
        why = f"{zeros[0]!r} was zero in every sample"
    elif 0 < (reach := _reach(model, site, seen)) < LEAST:
        why = f"its products reach {reach:.3g} at most, too near zero for the format"
    return OpPlan(
        node=site.node,
        op_type=site.op_type,
        module=site.module,
        precision="float" if why else precision,
        activations=site.activations,
        output=site.output if site.output in results else None,
        weight=site.weight,
        block=None,
        why=why or "within its calibrated range",
    )


def _reach(model: ir.Model, site: Site, seen: Mapping[str, Histogram]) -> float:
    """Compute the magnitude that one product of a site can have."""
    reach = 1.0 if site.weight is None else float(np.abs(weight_array(model, site.weight)).max(initial=0.0))
    for name in site.activations:
        reach *= seen[name].amax
    return reach


HALF_LIMITS: dict[SitePrecision, float] = {"fp16": 65504.0, "bf16": 3.38e38}
HALF_LEAST: dict[SitePrecision, float] = {"fp16": 2.0**-13, "bf16": LEAST}
"""Where the largest number is smaller, fp16's steps of 2^-24 round it more coarsely than its 11 bits would."""
HALF_HEADROOM = 4.0
"""How far below the largest number of the format the largest number seen must stay."""


def half_plan(
    model: ir.Model, statistics: Statistics, config: QuantConfig, *, precision: SitePrecision
) -> QuantizationPlan:
    """16-bit operands on every site whose numbers fit.

    Args:
        model: the prepared float graph.
        statistics: of what enters and leaves every site.
        config: for the modules that stay float.
        precision: `fp16` or `bf16`.
    """
    limit, least = HALF_LIMITS[precision] / HALF_HEADROOM, HALF_LEAST[precision]
    ops = []
    for site in find_sites(model):
        seen = {name: statistics.tensors[name].histogram for name in (*site.activations, site.output)}
        largest = max(seen, key=lambda name: seen[name].amax)
        why = ""
        if kept := config.why_float(site.module):
            why = kept
        elif problem := value_problem(seen, seen, least=least):
            why = problem
        elif seen[largest].amax > limit:
            why = f"{largest!r} reaches {seen[largest].amax:.3g}, too near the largest {precision} number"
        elif problem := constant_problem(model, site, largest=limit, least=least, bias=True):
            why = problem
        ops.append(
            OpPlan(
                node=site.node,
                op_type=site.op_type,
                module=site.module,
                precision="float" if why else precision,
                activations=site.activations,
                output=None,
                weight=site.weight,
                block=None,
                why=why or f"its numbers stay below {limit:.3g}",
            )
        )
    return QuantizationPlan(
        version=PLAN_VERSION,
        graph_sha256=graph_digest(model),
        precision=precision,
        transforms=(),
        ops=(*ops, *inner_ops(inner_sites(model))),
        tensors=(),
    )


def round_weights(
    model: ir.Model,
    plan: QuantizationPlan,
    config: QuantConfig | None = None,
    *,
    before: tuple[QuantizationPlan, Mapping[str, QuantizedWeight]] | None = None,
    threads: int | None = None,
) -> dict[str, QuantizedWeight]:
    """Round the weights of all sites to the nearest 8-bit codes.

    Args:
        model: the float graph.
        plan: says which.
        config: says how the range of a channel is found; None takes the default.
        before: a plan of the same sites that differs in ranges alone, and its weights: those whose scales no range
            decides stay as they are.
        threads: see `in_threads`.
    """
    chosen = config or QuantConfig()
    sites = {s.node: s for s in find_sites(model)}
    ops = [op for op in plan.quantized() if op.weight is not None]

    def rounded(op: OpPlan) -> QuantizedWeight:
        site = sites[op.node]
        if before is not None and not _is_bound(model, site, op, (before[0], plan), before[1][str(op.weight)].scales):
            return before[1][str(op.weight)]
        return _rounded(model, site, op, plan, chosen)

    return {weight.name: weight for weight in in_threads(rounded, ops, threads)}


def _is_bound(
    model: ir.Model, site: Site, op: OpPlan, plans: tuple[QuantizationPlan, QuantizationPlan], scales: Array
) -> bool:
    """Whether the sums of products decide any scale of a weight under one of two plans."""
    old, new = (plan.ranges.get(op.activations[0]) for plan in plans)
    if op.precision != "int8" or old == new:
        return False
    # A scale that was decided so is the least one, but for its rounding to float32.
    return any(bool((_least(model, site, op, plan) * (1 + 1e-6) >= scales).any()) for plan in plans)


def _rounded(model: ir.Model, site: Site, op: OpPlan, plan: QuantizationPlan, config: QuantConfig) -> QuantizedWeight:
    name, grid = str(op.weight), GRIDS["fp8" if op.precision == "fp8" else "int8"]
    weight, axis = weight_array(model, name), site.channel_axis
    scales = channel_scales(weight, axis, grid, method=config.weight_ranges, percentile=config.percentile)
    if op.precision == "int8":
        scales = np.maximum(scales, _least(model, site, op, plan)).astype(np.float32)
    return round_to_channels(name, weight, axis, grid, scales=scales)


def _least(model: ir.Model, site: Site, op: OpPlan, plan: QuantizationPlan) -> Array:
    """The smallest scale of each channel with which sums of products fit, [channels] float64."""
    weight, axis = weight_array(model, str(op.weight)), site.channel_axis
    constant = None if site.bias is None else model.graph.initializers.get(site.bias)
    bias = None if constant is None or constant.const_value is None else constant.const_value.numpy()
    if bias is not None:  # a ConvTranspose in groups has a scale for one output channel of each group
        channels = weight.shape[axis]
        fits = bias.ndim == 1 and len(bias) % channels == 0
        bias = np.abs(bias).reshape(-1, channels).max(axis=0) if fits else None
    return least_scales(weight, axis, bias, _least_step(plan.ranges[op.activations[0]]))


def _least_step(found: TensorPlan) -> float:
    """Find the smallest step of all Q/DQ formats: weights have the same codes in all."""
    symmetric = GRIDS["int8"].scale_for(found.amax)
    return symmetric if found.bounds is None else min(symmetric, affine_scale(*found.bounds)[0])
