"""onnxslim: shape-aware clean-up that the exporter's own optimizer leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_nodes
from aigc_calibration.onnx_file import EXTERNAL_THRESHOLD, weight_bytes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["slim"]


def slim(model: ir.Model) -> ir.Model:
    """Any graph -> the same function with fewer nodes; the model that is given stays as it is.

    Graph before: `y = BatchNormalization(Conv(x, W), ...)`; after: `y = Conv(x, W', b')`.

    1. Repeated subexpressions and equal initializers -> one.
    2. Chains of Reshape, Slice, Concat on shapes -> shorter ones.
    3. Batch normalization after a convolution -> folded into its weights.

    onnxslim works on protobuf and drops node metadata and symbolic shapes; both are put back by name, in bodies of If,
    Loop and Scan as well. A graph whose weights do not fit into one protobuf message (2 GiB) is returned as it is.

    Any opset that onnxslim knows (9 and later). It rewrites the main graph, and leaves bodies as they are.
    """
    import onnx_ir as ir
    import onnxslim

    if weight_bytes(model) >= EXTERNAL_THRESHOLD:
        return model
    scopes = {node.name: dict(node.metadata_props) for node in all_nodes(model)}
    properties = dict(model.metadata_props)
    interface = {v.name: v.shape for v in (*model.graph.inputs, *model.graph.outputs)}
    slimmed: ir.Model = ir.from_proto(onnxslim.slim(ir.to_proto(model)))
    for node in all_nodes(slimmed):
        node.metadata_props.update(scopes.get(node.name, {}))
    for value in (*slimmed.graph.inputs, *slimmed.graph.outputs):
        value.shape = interface[value.name]
    slimmed.metadata_props.update(properties)
    slimmed.producer_name, slimmed.producer_version = model.producer_name, model.producer_version
    return slimmed
