"""Small changes to a graph that every emitter makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from aigc_calibration.bodies import bodies
from aigc_calibration.computed import sizes_of
from aigc_calibration.errors import PlanError
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

__all__ = ["add_constant", "finish", "insert_after"]


def add_constant(graph: ir.Graph, name: str, array: Array | np.generic | ir.TensorProtocol) -> ir.Value:
    """Add an initializer; one of the model's own that has its name gets another.

    Numpy's arithmetic makes a plain number (`np.generic`) of an array without dimensions: it is one here again.
    """
    import numpy as np
    import onnx_ir as ir

    tensor = ir.Tensor(np.asarray(array), name=name) if isinstance(array, np.ndarray | np.generic) else array
    present = graph.initializers.get(name)
    if present is not None and present.const_value is not None:
        if _same(present.const_value, tensor):
            return present
        del graph.initializers[name]
        present.name = present.const_value.name = _free_name(graph, name)
        graph.initializers[str(present.name)] = present
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(sizes_of(tensor)), type=ir.TensorType(tensor.dtype))
    graph.initializers[name] = value
    return value


def _same(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    alike = one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)
    return alike and one.tobytes() == other.tobytes()


def _free_name(graph: ir.Graph, name: str) -> str:
    taken = {*_names(graph), *(n for body, _ in bodies(graph) for n in _names(body))}
    return next(n for n in (f"{name}_{i}" for i in count(2)) if n not in taken)


def _names(graph: ir.Graph) -> Iterator[str]:
    """The name of every value that a graph itself defines."""
    yield from dict.fromkeys(str(v.name) for v in (*graph.inputs, *graph.initializers.values()))
    yield from (str(v.name) for node in graph for v in node.outputs if v.name)


def insert_after(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put nodes behind the node that makes a value; at the beginning for an input of the graph."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), nodes)
    else:
        graph.insert_after(producer, nodes)


def finish(graph: ir.Graph) -> None:
    """Drop constants that nothing reads any more, and give values of bodies whose names are taken another one.

    Raises:
        PlanError: two values of the graph have the same name: one is the model's own.
    """
    for name, value in list(graph.initializers.items()):
        if not list(value.uses()) and not value.is_graph_output():
            del graph.initializers[name]
    names = Counter(_names(graph))
    if twice := [name for name, times in names.items() if times > 1]:
        raise PlanError(
            f"the model has a value named {twice[0]!r}, which its quantized graph needs for another one",
            hint="rename it in the PyTorch module",
        )
    for body, _ in bodies(graph):  # what a body calls its values is known to nobody outside of it
        for value in (*body.inputs, *list(body.initializers.values()), *(v for node in body for v in node.outputs)):
            if value.name in names:
                value.name = _free_name(graph, str(value.name))
