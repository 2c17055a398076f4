"""Build one graph for every mix of two precisions: each site has a switch among the inputs.

Where the emitter lets a node read a quantized value q in place of a float one x, this graph has

    Where(switch of the site, q, x)

so that any mix is one run, with no graph built anew. The numbers are those of the emitted graph as long as the engine
does not fuse: it runs with its optimizer off, in float between the codes.
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

    def swap(node: ir.Node, index: int, value: ir.Value, op: OpPlan) -> None:
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
    made.graph.inputs.extend(switches.values())
    return made
