"""Graphs inside a graph: the bodies of If, Loop and Scan, and the functions of a model.

A body reads values of the graphs around it by name. In the IR they are the same objects, so that `uses()` of a value
covers its readers in bodies. What a body computes is seen by nobody outside of it: it may run never, once or many
times, and its values cannot be made outputs of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = [
    "all_graphs",
    "all_nodes",
    "bodies",
    "inline_functions",
    "make_names_unique",
    "own_parts",
    "proto_graphs",
    "proto_nodes",
]


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies in it, and the graphs of functions with the bodies in them."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from (body for body, _ in bodies(graph))


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of `all_graphs`; those of the main graph first."""
    for graph in all_graphs(model):
        yield from graph


def bodies(graph: ir.Graph) -> Iterator[tuple[ir.Graph, ir.Node]]:
    """Every body in a graph, at any depth, and the node that it belongs to."""
    import onnx_ir as ir

    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.GRAPH:
                inner = [attribute.as_graph()]
            else:
                inner = list(attribute.as_graphs()) if attribute.type is ir.AttributeType.GRAPHS else []
            for body in inner:
                yield body, node
                yield from bodies(body)


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies in it, as protobuf messages."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from proto_graphs(body)


def proto_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the bodies in it, as protobuf messages."""
    for one in proto_graphs(graph):
        yield from one.node


def inline_functions(model: ir.Model) -> ir.Model:
    """`f(x)` -> the nodes of the model's function f, so that what they compute is seen; changes the model.

    Graph before: `y = f(x)` with `f(a) = MatMul(a, W)`; after: `y = MatMul(x, W)`.

    1. Calls in the main graph, in bodies of If, Loop and Scan, and in functions.
    2. References to the function's attributes -> the values that the call gives, or their defaults.
    3. Nodes of the function carry the metadata of the call beside their own; names stay unique
       (`make_names_unique`).
    4. Functions that nothing calls -> gone, and the operator sets that only functions brought.
    5. A model without functions -> as it is.

    Any opset. A function whose opset is not the model's is refused, as is one that gets a graph as an attribute.

    Raises:
        ValueError: a function that cannot be inlined; names it.
    """
    if not model.functions:
        return model
    from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

    domains = {function.domain for function in model.functions.values()}
    _ready_functions(model)
    InlinePass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    used = {node.domain for node in all_nodes(model)} | {function.domain for function in model.functions.values()}
    for domain in domains - used:
        model.opset_imports.pop(domain, None)
    make_names_unique(model)
    own_parts(model)
    return model


def own_parts(model: ir.Model) -> None:
    """Give each value its own type, and each node its own tensors, which clones share.

    Setting a value's dtype changes its type, and onnxscript's optimizer gives the tensor of a Constant another name.
    """
    import onnx_ir as ir

    for graph in all_graphs(model):
        for value in (*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)):
            value.type = copy.copy(value.type)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type is not ir.AttributeType.TENSOR or attribute.is_ref():
                    continue
                tensor = attribute.as_tensor()
                if tensor.dtype is not ir.DataType.STRING:
                    own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
                    node.attributes[name] = ir.AttrTensor(name, own)


def _ready_functions(model: ir.Model) -> None:
    """Name their nodes, and put Identity between what a function is given and what it gives.

    One that gives an input as it is would hand the name of the call's result to the caller's own value.
    """
    import onnx_ir as ir

    for function in model.functions.values():
        for node in function.all_nodes():
            node.name = node.name or node.op_type
        given: set[ir.Value] = set(function.inputs)
        for index, output in enumerate(function.outputs):
            if output in given:  # an input, or the same result twice
                same = ir.node("Identity", [output], name=f"{function.name}_output_{index}")
                same.outputs[0].name = f"{function.name}_output_{index}"
                same.outputs[0].shape, same.outputs[0].type = output.shape, output.type
                function.append(same)
                function.outputs[index] = same.outputs[0]
            given.add(function.outputs[index])


def make_names_unique(model: ir.Model) -> None:
    """Give every node and every value of a model a name of its own; inputs, outputs and the main graph keep theirs.

    A plan calls sites by their nodes' names, and what is put into the main graph must not take a name that a body uses.
    """
    nodes: set[str] = set()
    values: set[str] = {str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)}
    kept: set[ir.Value] = {*model.graph.inputs, *model.graph.outputs}
    for graph in all_graphs(model):
        for value in (*graph.inputs, *list(graph.initializers.values()), *(o for node in graph for o in node.outputs)):
            if value in kept or value.name == "":  # an output that is left out
                continue
            value.name = _free(value.name or "value", values)
            values.add(str(value.name))
            kept.add(value)
        for node in graph:
            node.name = _free(node.name or node.op_type, nodes)
            nodes.add(node.name)


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for n in (f"{name}_{i}" for i in count(2)) if n not in taken)
