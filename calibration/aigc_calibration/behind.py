"""What is behind a value: the function of each of its numbers that alone reads it, as an activation function does.

An error of a value counts as much as that function lets through: behind LeakyRelu with a slope of 0.2, errors of
negative numbers count a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.computed import sizes_of
from aigc_calibration.histogram import HALF_BINS
from aigc_calibration.onnx_function import open_onnx
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["length_behind"]

OF_EACH_NUMBER = frozenset(
    (
        "Add",
        "Celu",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sub",
        "Swish",
        "Tanh",
    )
)
"""Operators whose result, at each place, depends on the numbers at that place alone."""
MOST_NODES = 12
"""Of one function."""
POINTS = HALF_BINS + 1
"""At which a function is computed: as many as a histogram has bins on either side of zero, and one more."""


def length_behind(
    model: ir.Model, name: str, low: float, high: float, *, stops: Collection[str] = ()
) -> Callable[[Array], Array] | None:
    """Find how far apart two numbers of a value are for what reads it: the length of the function behind between them.

    Where the function f rises or falls all along that is |f(a) - f(b)|; else the way that f goes between a and b. Where
    channels have functions of their own (PRelu), slopes are their root mean square.

    Args:
        model: the graph.
        name: of the value.
        low: the least number of it.
        high: the largest.
        stops: values that a function must not go beyond.

    Returns:
        A rising function g, so that the distance is |g(a) - g(b)|; None where something else than a function of each
        number reads the value, or nothing does.
    """
    value = next((v for node in model.graph for v in node.outputs if v.name == name), None)
    if value is None or not low < high:
        return None
    nodes = _nodes_behind(value, set(stops))
    if not nodes:
        return None
    x = np.linspace(low, high, POINTS)
    y = _computed(model, value, nodes, x)
    if y is None or not np.isfinite(y).all():
        return None
    slopes = np.sqrt(np.square(np.diff(y, axis=1)).mean(axis=0))
    lengths = np.concatenate([[0.0], np.cumsum(slopes)])
    return lambda numbers: np.interp(numbers, x, lengths)


def _nodes_behind(value: ir.Value, stops: set[str]) -> list[ir.Node]:
    """The nodes of the longest function of each number that alone reads a value, in their order."""
    nodes: list[ir.Node] = []
    unread, whole = [value], 0
    while len(nodes) < MOST_NODES:
        inside = {value, *(node.outputs[0] for node in nodes)}
        ready = (n for v in unread if v is value or v.name not in stops for n, _ in v.uses() if n not in nodes)
        added = next((n for n in ready if _is_of_each_number(n, value, inside)), None)
        if added is None:
            break
        nodes.append(added)
        inside.add(added.outputs[0])
        unread = [v for v in inside if v.is_graph_output() or any(n not in nodes for n, _ in v.uses())]
        if unread == [added.outputs[0]]:
            whole = len(nodes)
    return nodes[:whole]


def _is_of_each_number(node: ir.Node, value: ir.Value, inside: set[ir.Value]) -> bool:
    """Whether a node computes each number of its result from numbers of values inside, and constants of a channel."""
    if node.domain not in {"", "ai.onnx"} or node.op_type not in OF_EACH_NUMBER or node.graph is not value.graph:
        return False
    others = [v for v in node.inputs if v is not None and v not in inside]
    sizes = [None if v.const_value is None else sizes_of(v.const_value) for v in others]
    return all(s is not None and (not s or s[-1] == 1) for s in sizes)


def _computed(model: ir.Model, value: ir.Value, nodes: list[ir.Node], x: Array) -> Array | None:
    """The function at points x [P]: [channels, P] float64, one row where channels have the same; None for no floats."""
    import onnx_ir as ir

    kind = value.dtype
    if kind is None or kind not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
        return None
    rank = max([1, *(len(v.const_value.shape) for n in nodes for v in n.inputs if v is not None and v.const_value)])
    shape = [*[1] * (rank - 1), len(x)]
    graph = ir.convenience.extract(model.graph, [value], [nodes[-1].outputs[0]])
    for inner in (v for node in graph for v in node.outputs):
        inner.shape = None
    (given,) = graph.inputs
    given.shape = ir.Shape(shape)
    run = open_onnx(ir.Model(graph, ir_version=model.ir_version), threads=1)
    (y,) = run({str(given.name): x.astype(kind.numpy()).reshape(shape)}).values()
    return y.astype(np.float64).reshape(-1, len(x))
