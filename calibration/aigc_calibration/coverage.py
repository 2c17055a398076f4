"""How much of a graph's work is quantized: by the plan, and as the engine really runs it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_calibration.edit import insert_after
from aigc_calibration.errors import PlanError
from aigc_calibration.integer_products import EXACT_SUFFIX, Optimized, optimized, saturating
from aigc_calibration.onnx_function import Feeds, open_onnx
from aigc_calibration.packed import packed_constants
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.prepare import copy_graph
from aigc_calibration.rewritten import silent_changes
from aigc_calibration.sites import find_sites

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "MIN_EXECUTED",
    "Coverage",
    "Executed",
    "check_executed",
    "executed_sites",
    "float_sites",
    "planned_coverage",
    "site_macs",
]

INTEGER_OPS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulNBits"})
"""What ONNX Runtime on a CPU makes of a quantized site."""

Executed = Callable[["ir.Model", QuantizationPlan], "set[str] | None"]
"""Called as executed(emitted graph, its plan): the quantized sites that an engine really runs in few bits; None where
that is for the engine's builder to prove."""

MIN_EXECUTED = 0.99
"""Share of the planned work that an engine must run in low precision."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Shares of the multiply-accumulates of all sites of the main graph.

    What a body of If, Loop or Scan multiplies is not counted: nobody knows how often it runs.

    Attributes:
        planned: that the plan quantizes.
        executed: that the engine runs in low precision; None where that is for the engine's builder to prove.
        missed: sites that the plan quantizes, and the engine should run so and does not.
        float_sites: site -> why, of those that the plan leaves float; a site is called by its module where that is
            the only one of it.
        uncounted: sites inside bodies of If, Loop and Scan, whose work is in none of the shares.
    """

    planned: float
    executed: float | None
    missed: tuple[str, ...]
    float_sites: Mapping[str, str]
    uncounted: int = 0

    def __str__(self) -> str:
        products = "1 product" if self.uncounted == 1 else f"{self.uncounted} products"
        return self._shares() + (f"; {products} in bodies of If, Loop or Scan not counted" if self.uncounted else "")

    def _shares(self) -> str:
        if self.executed is None:
            return f"{self.planned:.1%} of the work planned in low precision"
        shares = f"{self.planned:.1%} of the work planned, {self.executed:.1%} run in low precision"
        if self.executed >= MIN_EXECUTED * self.planned:
            return shares
        return f"{shares}, the rest stored so and computed with in float"

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Map each reason to the sites that the plan leaves float for it."""
        found: dict[str, tuple[str, ...]] = {}
        for node, why in self.float_sites.items():
            found[why] = (*found.get(why, ()), node)
        return found


def site_macs(model: ir.Model, feeds: Feeds) -> dict[str, int]:
    """Count the multiply-accumulates of every site of the main graph on one run.

    A result of n numbers, each the sum of k products, takes n k of them; a ConvTranspose spreads each of its n inputs
    over m numbers.
    """
    sites = find_sites(model)
    shapes = _shapes(model, {s.output for s in sites} | {s.activations[0] for s in sites}, feeds)
    macs = {}
    for site in sites:
        first, result = shapes[site.activations[0]], shapes[site.output]
        if site.weight is None:
            macs[site.node] = math.prod(result) * first[-1]
            continue
        each = 1
        for axis, size in enumerate(site.shape):
            kept = site.input_axis if site.op_type == "ConvTranspose" else site.channel_axis
            each *= 1 if axis == kept else size
        macs[site.node] = math.prod(first if site.op_type == "ConvTranspose" else result) * each
    return macs


def _shapes(model: ir.Model, names: Collection[str], feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Find the shapes of values on one run: the values themselves, of all layers together, may not fit into memory."""
    import onnx_ir as ir

    if not names:
        return {}
    model = copy_graph(model)
    values = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    places = {}
    outputs = []
    for index, value in enumerate([value for value in values if value.name in names]):
        node = ir.node("Shape", [value], name=f"aigc_shape_{index}")
        shape = node.outputs[0]
        shape.name, shape.shape, shape.type = node.name, ir.Shape([None]), ir.TensorType(ir.DataType.INT64)
        insert_after(model.graph, value, [node])
        outputs.append(shape)
        places[str(shape.name)] = str(value.name)
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    found = open_onnx(model, optimize=False, packed=False)(feeds)
    return {places[name]: tuple(map(int, sizes)) for name, sizes in found.items()}


def executed_sites(model: ir.Model, plan: QuantizationPlan) -> set[str]:
    """The quantized sites that ONNX Runtime runs as integer operators, read from the graph that it optimized.

    A site is known again by the constant that holds its codes, or that a rewrite made of several
    (`packed.note_packed`); a product of activations by its name.

    Raises:
        PlanError: the engine would run more in low precision than the plan says, or other codes, or would look a table
            up in float; or a product is not the same on every processor. Names the sites.
    """
    with optimized(model) as found:
        _check_rewritten(found, plan)
        integer = [n for n in found.runs.graph.node if n.op_type in INTEGER_OPS]
        packed = packed_constants(found.given.graph)
    constants = {name.removesuffix(EXACT_SUFFIX) for node in integer for name in node.input}
    constants |= {part for name in constants & packed.keys() for part in packed[name]}
    names = {node.name for node in integer}
    return {
        op.node
        for op in plan.quantized()
        if (f"{op.weight}_quantized" in constants if op.weight is not None else op.node in names)
    }


def _check_rewritten(found: Optimized, plan: QuantizationPlan) -> None:
    if wrong := saturating(found.runs.graph, found.folder):
        raise PlanError(
            f"{len(wrong)} products of 8-bit numbers would saturate on processors without VNNI: {', '.join(wrong[:5])}",
            hint="nothing was published: name their modules with --keep-float",
        )
    if changes := silent_changes(found.given, found.runs, plan, folder=found.folder):
        raise PlanError(
            f"the engine would not compute what the plan says: {'; '.join(changes[:5])}",
            hint="nothing was published: please report the model, or name the module with --keep-float",
        )
    tables = {n.name for n in found.runs.graph.node if n.op_type == "GatherBlockQuantized"}
    if lost := [one.table for one in plan.lookups if one.block is not None and one.node not in tables]:
        raise PlanError(
            f"the engine would look up {', '.join(lost)} in float",
            hint="nothing was published: please report the model, or name the module with --keep-float",
        )


def check_executed(
    model: ir.Model,
    plan: QuantizationPlan,
    macs: Mapping[str, int],
    executed: Executed = executed_sites,
    *,
    least: float = MIN_EXECUTED,
) -> Coverage:
    """Prove that the engine runs what the plan says.

    Args:
        model: the emitted graph.
        plan: that it was emitted from.
        macs: of every site.
        executed: finds what the engine runs; where it says None, the coverage is that of the plan alone.
        least: share of the planned work that must run in low precision.

    Raises:
        PlanError: it runs less, names the sites; or the plan quantizes nothing.
    """
    ran, planned = executed(model, plan), {op.node for op in plan.quantized()}
    if ran is None:
        return planned_coverage(plan, macs)
    # A convolution whose weight alone is quantized is stored in few bits and computed in float, as meant.
    wanted = {op.node for op in plan.quantized() if op.block is None or not op.op_type.startswith("Conv")}
    total = sum(macs.values()) or 1
    found = Coverage(
        planned=sum(macs[n] for n in planned) / total,
        executed=sum(macs[n] for n in ran) / total,
        missed=tuple(op.node for op in plan.quantized() if op.node in wanted - ran),
        float_sites=float_sites(plan),
        uncounted=_uncounted(plan),
    )
    if not planned:
        reasons = "; ".join(sorted(set(found.float_sites.values())))
        raise PlanError(f"nothing in the graph can be run in {plan.precision} by this engine", hint=reasons)
    requested, runs = (sum(macs[n] for n in nodes) / total for nodes in (wanted, ran & wanted))
    if runs < least * requested:
        raise PlanError(
            f"the engine runs {runs:.1%} of the work in low precision, the plan says {requested:.1%}",
            hint=f"sites that stay float: {', '.join(found.missed[:5])}; nothing was published: "
            "name their modules with --keep-float if that will do",
        )
    return found


def planned_coverage(plan: QuantizationPlan, macs: Mapping[str, int]) -> Coverage:
    """Compute the coverage of a plan alone, for an engine whose precision is proven when it is compiled.

    Raises:
        PlanError: the plan quantizes nothing.
    """
    left = float_sites(plan)
    if not plan.quantized():
        reasons = "; ".join(sorted(set(left.values())))
        raise PlanError(f"nothing in the graph can be run in {plan.precision} by this engine", hint=reasons)
    return Coverage(
        planned=sum(macs[op.node] for op in plan.quantized()) / (sum(macs.values()) or 1),
        executed=None,
        missed=(),
        float_sites=left,
        uncounted=_uncounted(plan),
    )


def _uncounted(plan: QuantizationPlan) -> int:
    return sum(1 for op in plan.ops if op.within)


def float_sites(plan: QuantizationPlan) -> dict[str, str]:
    """Map the sites that a plan leaves float to the reason; see `Coverage`."""
    modules = Counter(op.module for op in plan.ops)
    return {
        op.module if op.module and modules[op.module] == 1 else f"{op.module} {op.node}".strip(): op.why
        for op in plan.ops
        if op.precision == "float"
    }
