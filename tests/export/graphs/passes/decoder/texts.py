"""Small graphs in ONNX's own text."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir


def graph(signature: str, body: str) -> ir.Model:
    """The graph of a signature, such as `float[b,4] x => float[b,4] y`, and of its nodes, with all shapes inferred."""
    before, after = signature.split("=>")
    head = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{head} g ({before}) => ({after}) {{ {body} }}")
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    made: ir.Model = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    return made


def value(model: ir.Model, name: str) -> ir.Value:
    """A value of the main graph by its name."""
    given = (*model.graph.inputs, *model.graph.initializers.values())
    return next(one for one in (*given, *(v for node in model.graph for v in node.outputs)) if one.name == name)
