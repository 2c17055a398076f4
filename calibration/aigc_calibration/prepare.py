"""Make constants of what is constant: a weight behind a Transpose is found nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.sites import SITE_OPS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["copy_graph", "prepare"]


def copy_graph(model: ir.Model) -> ir.Model:
    """A graph of one's own; large constants are shared, which is safe as long as they are replaced, not written to."""
    import onnx_ir as ir

    return ir.from_proto(ir.to_proto(model))


def prepare(model: ir.Model) -> ir.Model:
    """A copy of the graph in which every weight of a site is an initialiser that only that site reads.

    1. `MatMul(x, Transpose(W))` -> `MatMul(x, W')` with the constant W' = W transposed: an output layer tied to the
       embedding keeps its own copy, since the embedding stays float.
    2. A weight that several nodes read -> one copy for each site.
    """
    import onnx_ir as ir

    model = copy_graph(model)
    initializers = model.graph.initializers
    for node in list(model.graph):
        if node.op_type not in SITE_OPS or node.inputs[1] is None:
            continue
        weight = node.inputs[1]
        producer = weight.producer()
        if producer is not None and producer.op_type == "Transpose" and producer.inputs[0] is not None:
            source = producer.inputs[0].const_value
            if source is None:
                continue
            array = source.numpy()
            given = producer.attributes["perm"].as_ints() if "perm" in producer.attributes else None
            values = np.ascontiguousarray(array.transpose(given))
        elif weight.const_value is not None and len(list(weight.uses())) > 1:
            values = weight.const_value.numpy()
        else:
            continue
        name = f"{node.name}_weight"
        own = ir.Value(name=name, const_value=ir.tensor(values, name=name))
        own.shape, own.dtype = ir.Shape(values.shape), ir.DataType.FLOAT
        initializers[name] = own
        node.replace_input_with(1, own)
        if producer is not None and not list(producer.outputs[0].uses()):
            model.graph.remove(producer, safe=True)
    return model
