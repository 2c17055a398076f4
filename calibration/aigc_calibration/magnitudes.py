"""The largest magnitude of each row of a value, computed where the value is: the value itself is never handed out.

    x [rows, ...]  ->  Abs -> Flatten -> ReduceMax -> largest [rows]
                                      -> ReduceL1  -> sum [rows], which is NaN where any number of the row is

16-bit formats need no more of a value than that. A language model has hundreds of values, and those of attention grow
with the square of the tokens: to hold all of them at once takes more memory than its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.edit import add_constant, insert_after
from aigc_calibration.prepare import copy_graph
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Reduced", "reduced"]

AXIS = "aigc_magnitude_axis"


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A graph that computes the largest magnitudes of its values.

    Attributes:
        model: the graph, with a few more nodes.
        names: value -> names of its rows' largest magnitudes and sums.
    """

    model: ir.Model
    names: Mapping[str, tuple[str, str]]

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of all that is to be watched."""
        return tuple(name for pair in self.names.values() for name in pair)

    def magnitudes(self, results: Mapping[str, Array]) -> dict[str, Array]:
        """Find the largest magnitude of each row of each value: [rows] float32, 0 for a row of no numbers, NaN for NaN.

        Args:
            results: of `watched`.
        """
        found = {}
        for value, (largest, total) in self.names.items():
            rows = np.maximum(results[largest], np.float32(0))
            found[value] = np.where(np.isnan(results[total]), np.float32(np.nan), rows).astype(np.float32)
        return found


def reduced(model: ir.Model, values: Sequence[str]) -> Reduced:
    """Add the nodes for inputs and inner values to a copy of a graph.

    Args:
        model: of opset 18 or later.
        values: names of values of one axis or more.
    """
    model = copy_graph(model)
    graph = model.graph
    axis = add_constant(graph, AXIS, np.array([1], dtype=np.int64))
    by_name = {str(v.name): v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    names = {}
    for place, name in enumerate(values):
        nodes = _nodes(by_name[name], axis, stem=f"aigc_magnitude_{place}")
        insert_after(graph, by_name[name], nodes)
        names[name] = (str(nodes[-2].outputs[0].name), str(nodes[-1].outputs[0].name))
    return Reduced(model=model, names=names)


def _nodes(value: ir.Value, axis: ir.Value, *, stem: str) -> list[ir.Node]:
    """The nodes for one value, the two results last."""
    import onnx_ir as ir

    made: dict[str, ir.Node] = {}
    if value.dtype != ir.DataType.FLOAT:
        made["float"] = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
        value = made["float"].outputs[0]
    made["abs"] = ir.node("Abs", [value])
    made["rows"] = ir.node("Flatten", made["abs"].outputs, {"axis": 1})
    for kind, op in (("max", "ReduceMax"), ("sum", "ReduceL1")):
        made[kind] = ir.node(op, [made["rows"].outputs[0], axis], {"keepdims": 0})
    for kind, node in made.items():
        node.name = node.outputs[0].name = f"{stem}_{kind}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return list(made.values())
