"""onnxslim: shape-aware clean-up that the exporter's own optimizer leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_nodes
from aigc_calibration.onnx_file import to_proto, weight_bytes
from aigc_calibration.prepare import copy_graph

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["STAND_IN_THRESHOLD", "slim"]

STAND_IN_THRESHOLD = 2**26
"""Bytes of weights from which on large ones are left out."""
LARGE_BYTES = 2**20
"""Of one weight."""
MESSAGE_BYTES = 2**31 - 2**27
"""Weights that a message of protobuf, which ends at 2 GiB, has room for beside its nodes."""
FOLDED = frozenset({"BatchNormalization", "Add", "Mul"})
"""What onnxslim folds into the convolution in front of it."""


def slim(model: ir.Model) -> ir.Model:
    """Any graph -> the same function with fewer nodes; the model that is given stays as it is.

    Graph before: `y = BatchNormalization(Conv(x, W), ...)`; after: `y = Conv(x, W', b')`.

    1. Repeated subexpressions and equal initializers -> one.
    2. Chains of Reshape, Slice, Concat on shapes -> shorter ones.
    3. Batch normalization after a convolution -> folded into its weights.

    onnxslim works on protobuf and drops node metadata and symbolic shapes; both are put back by name, in bodies of If,
    Loop and Scan as well. In a graph with many weights (`STAND_IN_THRESHOLD`) the large ones are inputs while it
    works, since it holds everything twice and more: they are neither compared with each other nor computed with. A
    graph whose other weights are still too many for a message stays as it is.

    Any opset that onnxslim knows (9 and later). It rewrites the main graph, and leaves bodies as they are.
    """
    import onnx_ir as ir
    import onnxslim

    size = weight_bytes(model)
    held = _large_weights(model) if size >= STAND_IN_THRESHOLD else {}
    if size - sum(tensor.nbytes for tensor in held.values()) > MESSAGE_BYTES:
        return model
    scopes = {node.name: dict(node.metadata_props) for node in all_nodes(model)}
    properties = dict(model.metadata_props)
    interface = {v.name: v.shape for v in (*model.graph.inputs, *model.graph.outputs)}
    slimmed: ir.Model = ir.from_proto(onnxslim.slim(_without(model, held)))
    _put_back(slimmed, held)
    for node in all_nodes(slimmed):
        node.metadata_props.update(scopes.get(node.name, {}))
    for value in (*slimmed.graph.inputs, *slimmed.graph.outputs):
        value.shape = interface[value.name]
    slimmed.metadata_props.update(properties)
    slimmed.producer_name, slimmed.producer_version = model.producer_name, model.producer_version
    return slimmed


def _large_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The large weights of the main graph, by name, but those of convolutions that something is folded into."""
    found = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LARGE_BYTES and not any(_takes(node) for node, _ in value.uses()):
            found[name] = tensor
    return found


def _takes(node: ir.Node) -> bool:
    """Whether something may be folded into a node: a constant that is added or multiplied, a batch normalization."""
    return node.op_type in {"Conv", "ConvTranspose"} and any(
        reader.op_type in FOLDED and any(value is not None and value.const_value is not None for value in reader.inputs)
        for output in node.outputs
        for reader, _ in output.uses()
    )


def _without(model: ir.Model, held: Mapping[str, ir.TensorProtocol]) -> onnx.ModelProto:
    """A graph as a message, in which these weights are inputs."""
    if not held:
        return to_proto(model)
    model = copy_graph(model)
    for name in held:
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
    return to_proto(model)


def _put_back(model: ir.Model, held: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [one for one in model.graph.inputs if one.name in held]:
        model.graph.inputs.remove(value)
        value.const_value = held[str(value.name)]
        model.graph.register_initializer(value)
