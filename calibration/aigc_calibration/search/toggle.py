"""Build one graph for every mix of two precisions: each site has a switch among the inputs.

Where the emitter lets a node read a quantized value q in place of a float one x, this graph has

    Where(switch of the site, q, x)

so that any mix is one run, with no graph built anew. A site that reads a weight is two, of which one is computed:

    If(switch of the site, {y = op(a, DequantizeLinear(codes))}, {y = op(a, weight)})

A `Where` of each weight would dequantize all of them in every run, and copy them, which takes most of the time where
weights are many and rows few: docs/adr/0055-work-of-choices.md. The numbers are those of the emitted graph as long as
the engine does not fuse: it runs with its optimizer off, in float between the codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.emit import emit
from aigc_calibration.formats import QdqFormat
from aigc_calibration.plan import OpPlan, QuantizationPlan
from aigc_calibration.weights import QuantizedWeight

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SWITCH", "toggle_graph"]

SWITCH = "switch."
"""What the names of the switches begin with; the name of the node follows. True: low precision."""


def toggle_graph(
    model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight], form: QdqFormat
) -> ir.Model:
    """Build the graph with a switch for every site that the plan quantizes.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: in `int8`, `fp8`, `int8-weight` or `int4-weight`.
        weights: codes of every weight that the plan quantizes.
        form: of the engine.
    """
    import onnx_ir as ir

    switches = {
        op.node: ir.Value(name=f"{SWITCH}{op.node}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
        for op in plan.quantized()
    }
    low_weights: dict[str, tuple[ir.Node, ir.Value]] = {}

    def swap(node: ir.Node, index: int, value: ir.Value, op: OpPlan) -> None:
        if index == 1 and op.weight is not None and node.name == op.node:
            low_weights[op.node] = (node, value)
            return
        chosen = ir.node(
            "Where",
            [switches[op.node], value, node.inputs[index]],
            name=f"{op.node}_chooses_{value.name}_for_{node.name}_{index}",
        )
        chosen.outputs[0].name = chosen.name
        graph = node.graph
        assert graph is not None
        graph.insert_before(node, chosen)
        node.replace_input_with(index, chosen.outputs[0])

    # A block of codes inside an operator of its own cannot be switched off, nor can codes that are copied or phases;
    # what is dequantized first has the same numbers, and a ConvTranspose of it those of its phases.
    plain = replace(form, nbits=False, moves_codes=False, phases=False, float_ops={})
    made = emit(model, plan, weights, plain, swap=swap)
    for name, (node, value) in low_weights.items():
        _compute_one(made.graph, node, value, switches[name])
    made.graph.remove(dict.fromkeys(maker for _, value in low_weights.values() for maker in _makers(value)), safe=True)
    made.graph.inputs.extend(switches.values())
    return made


def _compute_one(graph: ir.Graph, node: ir.Node, low: ir.Value, switch: ir.Value) -> None:
    """Put an `If` in the place of a node: where the switch is on, it reads `low` as its weight, else what it reads now.

    Args:
        graph: of the node; changed.
        node: of one result.
        low: made of constants alone. What makes it is copied.
        switch: of the site.
    """
    import onnx_ir as ir

    result = node.outputs[0]
    inside: dict[ir.Value | None, ir.Value] = {}
    body = [_copied(maker, inside, f"{maker.name}_of_{node.name}") for maker in _makers(low)]
    copies = {
        "then_branch": [*body, _copied(node, {**inside, node.inputs[1]: inside[low]}, f"{node.name}_low")],
        "else_branch": [_copied(node, {}, f"{node.name}_high")],
    }
    branches = [
        ir.AttrGraph(branch, ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name=f"{node.name}_{branch}"))
        for branch, nodes in copies.items()
    ]
    chosen = ir.Node("", "If", [switch], branches, name=node.name)
    chosen.metadata_props.update(node.metadata_props)
    made = chosen.outputs[0]
    made.shape, made.type = result.shape, result.type
    name = result.name
    graph.insert_before(node, chosen)
    result.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = name


def _makers(value: ir.Value) -> list[ir.Node]:
    """The nodes that make a value of constants, in the order in which they are computed."""
    node = value.producer()
    if node is None:
        return []
    before = [maker for source in node.inputs if source is not None for maker in _makers(source)]
    return [*dict.fromkeys(before), node]


def _copied(node: ir.Node, inside: dict[ir.Value | None, ir.Value], name: str) -> ir.Node:
    """Copy a node into a body, and note its results there.

    Args:
        node: outside of the body.
        inside: value outside -> what is read in its place; added to.
        name: of the copy, and the beginning of what its results are called.
    """
    import onnx_ir as ir

    inputs = [inside.get(value, value) for value in node.inputs]
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=name, version=node.version)
    for index, (own, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
        new.name, new.shape, new.type = f"{name}_{index}", own.shape, own.type
        inside[own] = new
    return copy
