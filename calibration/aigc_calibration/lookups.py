"""Tables whose rows are looked up, such as the embeddings of a vocabulary, in blocks of 8 bits.

Graph before: `y = Gather(T, ids)` with a constant T [rows, width]; after:
`y = com.microsoft::GatherBlockQuantized(codes, ids, scales)`, with a scale for each block of a row. A table that is
also the weight of a quantized product, as an output layer's that is tied to the embedding, is stored once: the lookup
reads the product's codes.

A lookup multiplies nothing, so it is no site: no sample is needed, and nothing is counted as work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.blocks import pack_nbits
from aigc_calibration.computed import sizes_of
from aigc_calibration.config import QuantConfig
from aigc_calibration.edit import add_constant
from aigc_calibration.formats import QdqFormat
from aigc_calibration.grids import GRIDS
from aigc_calibration.limits import array_problem
from aigc_calibration.matrices import to_matrix
from aigc_calibration.plan import LookupPlan, OpPlan, QuantizationPlan
from aigc_calibration.sites import Site, find_sites, scope_path, weight_array
from aigc_calibration.weights import QuantizedWeight, round_to_blocks

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["INTEGERS", "LEAST_SHARE", "Lookup", "emit_lookups", "find_lookups", "tied_weights", "with_lookups"]

LEAST_SHARE = 0.01
"""Of the bytes of a graph's weights: a smaller table stays float, since its codes would save next to nothing."""


INTEGERS = frozenset({"int8", "int8-weight", "int4-weight"})
"""Precisions in which tables are stored in 8 bits: in others every number keeps its own exponent."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One node that looks up rows of a constant.

    Attributes:
        node: its name.
        module: path of the PyTorch module that it came from.
        table: name of the constant.
        shape: (rows, width).
        rank: number of axes of the ids; None where the graph does not say.
        alone: whether lookups alone read the table.
    """

    node: str
    module: str
    table: str
    shape: tuple[int, int]
    rank: int | None
    alone: bool


def find_lookups(model: ir.Model) -> tuple[Lookup, ...]:
    """Every lookup in the main graph, in its order: a Gather along axis 0 of a float32 constant with two axes."""
    import onnx_ir as ir

    found = []
    for node in model.graph:
        table = node.inputs[0] if node.op_type == "Gather" and node.domain in {"", "ai.onnx"} else None
        constant = None if table is None else table.const_value
        if table is None or constant is None or constant.dtype != ir.DataType.FLOAT:
            continue
        sizes = sizes_of(constant)
        if len(sizes) == 2 and node.attributes.get_int("axis", 0) in {0, -2}:
            ids = node.inputs[1]
            found.append(
                Lookup(
                    node=str(node.name),
                    module=scope_path(node),
                    table=str(table.name),
                    shape=(sizes[0], sizes[1]),
                    rank=None if ids is None or ids.shape is None else len(ids.shape),
                    alone=not table.is_graph_output() and all(_reads_rows(*use) for use in table.uses()),
                )
            )
    return tuple(found)


def _reads_rows(node: ir.Node, index: int) -> bool:
    return node.op_type == "Gather" and index == 0


def with_lookups(
    model: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    config: QuantConfig,
    form: QdqFormat,
) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
    """Plan and round the tables that are looked up, where products are in integers and the engine can look up codes.

    Args:
        model: the prepared float graph.
        plan: of its products.
        weights: codes of their weights; those of tables that are among them are taken as they are.
        config: size of a block, and what stays float.
        form: in which the engine takes the graph.
    """
    if not form.nbits or plan.precision not in INTEGERS or not plan.quantized():
        return plan, dict(weights)
    plan = _planned(model, plan, config)
    return plan, _rounded(model, plan, weights)


def _planned(model: ir.Model, plan: QuantizationPlan, config: QuantConfig) -> QuantizationPlan:
    """Add to a plan what becomes of the lookups of its graph.

    Args:
        model: the prepared float graph, of which tables are constants.
        plan: of its products.
        config: size of a block, and what stays float.
    """
    whole = sum(4 * size for size in _sizes(model))
    decided = [_decide(model, lookup, plan, config, least=LEAST_SHARE * whole) for lookup in find_lookups(model)]
    return replace(plan, lookups=tuple(decided))


def _sizes(model: ir.Model) -> list[int]:
    constants = [value.const_value for value in model.graph.initializers.values()]
    return [int(np.prod(sizes_of(one))) for one in constants if one is not None]


def _decide(
    model: ir.Model, lookup: Lookup, plan: QuantizationPlan, config: QuantConfig, *, least: float
) -> LookupPlan:
    table, shares, block = weight_array(model, lookup.table), None, config.smallest_block
    if kept := config.why_float(lookup.module):
        why = kept
    elif not lookup.alone:
        why = "something else reads it in float, so that it would be stored twice"
    elif table.nbytes < least:
        why = "it is too small to gain from it"
    else:
        why = array_problem(lookup.table, table)
    if not why and lookup.rank is not None:  # rows of the product's codes are put together again
        product = _product_of(model, table, plan)
        if product is not None:
            shares, block = product.weight, product.block or block
    return LookupPlan(
        node=lookup.node,
        module=lookup.module,
        table=lookup.table,
        precision="float" if why else "int8-weight",
        block=None if why else block,
        shares=shares,
        why=why or (f"the codes of {shares!r}" if shares else f"blocks of {block}, rtn"),
    )


def tied_weights(model: ir.Model) -> frozenset[str]:
    """Name the weights of products whose columns are the rows of a table that is looked up."""
    tables = [weight_array(model, lookup.table) for lookup in find_lookups(model)]
    sites = find_sites(model)
    return frozenset(str(site.weight) for site in sites if any(_is_tied(model, site, table) for table in tables))


def _is_tied(model: ir.Model, site: Site, table: np.ndarray) -> bool:
    """Whether the columns of a product's weight are the rows of a table."""
    if site.weight is None or site.op_type not in {"MatMul", "Gemm"} or sorted(site.shape) != sorted(table.shape):
        return False
    return np.array_equal(to_matrix(site, weight_array(model, site.weight)).T, table)


def _product_of(model: ir.Model, table: np.ndarray, plan: QuantizationPlan) -> OpPlan | None:
    """The product with a weight in blocks of 8 bits whose columns are the rows of the table."""
    sites = {site.node: site for site in find_sites(model)}
    for op in plan.ops:
        site = sites.get(op.node)
        if site is None or op.precision != "int8-weight" or op.block is None or table.shape[1] % op.block:
            continue
        if _is_tied(model, site, table):
            return op
    return None


def _rounded(
    model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight]
) -> dict[str, QuantizedWeight]:
    """Add the codes of the plan's tables to those of its products."""
    found = dict(weights)
    for lookup in plan.lookups:
        if lookup.block is not None and lookup.shares is None and lookup.table not in found:
            columns = weight_array(model, lookup.table).T
            found[lookup.table] = round_to_blocks(lookup.table, columns, GRIDS["int8"], lookup.block)
    return found


def emit_lookups(model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight]) -> None:
    """Put quantized lookups in the place of float ones; changes the graph, in which products are quantized already."""
    nodes = {str(node.name): node for node in model.graph}
    for lookup in plan.lookups:
        if lookup.block is not None:
            _replace(model.graph, nodes[lookup.node], lookup, weights)


def _replace(graph: ir.Graph, node: ir.Node, lookup: LookupPlan, weights: Mapping[str, QuantizedWeight]) -> None:
    import onnx_ir as ir

    ids, old = node.inputs[1], node.outputs[0]
    assert lookup.block is not None
    assert ids is not None
    name, made = str(old.name), []
    if lookup.shares is None:
        weight = weights[lookup.table]
        codes = pack_nbits(weight).reshape(weight.codes.shape[1], -1)[:, : len(weight.codes)]
        stored = add_constant(graph, f"{lookup.table}_quantized", np.ascontiguousarray(codes))
        scales = add_constant(graph, f"{lookup.table}_scale", np.ascontiguousarray(weight.scales.T))
    else:  # [rows, blocks, block], and a scale for each block, which the product has in one row
        stored = graph.initializers[f"{lookup.shares}_quantized"]
        assert stored.const_value is not None
        rows, blocks, block = sizes_of(stored.const_value)
        sizes = add_constant(graph, f"{lookup.table}_scale_shape", np.array([rows, blocks, 1]))
        flat = graph.initializers[f"{lookup.shares}_scale"]
        made.append(ir.node("Reshape", [flat, sizes], name=f"{node.name}_scale"))
        scales = made[-1].outputs[0]
        scales.name = f"{name}_scale"
    attributes = {
        "bits": 8,
        "block_size": lookup.block,
        "gather_axis": 0,
        "quantize_axis": 1 if lookup.shares is None else 2,
    }
    found = ir.node(
        "GatherBlockQuantized", [stored, ids, scales], attributes, domain="com.microsoft", name=str(node.name)
    )
    found.metadata_props.update(node.metadata_props)
    made.append(found)
    if lookup.shares is not None:  # [..., blocks, block] -> [..., width]
        assert ids.shape is not None
        found.outputs[0].name = f"{name}_blocks"
        sizes = add_constant(graph, f"{name}_row_shape", np.array([*[0] * len(ids.shape), blocks * block]))
        made.append(ir.node("Reshape", [found.outputs[0], sizes], name=f"{node.name}_row"))
    new = made[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(node, made)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name
    graph.opset_imports["com.microsoft"] = 1
