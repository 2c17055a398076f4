"""Graphs whose weights are zero, tiny, huge or dead: every operator of a site, in chains, for Hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import helper

from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

F = np.float32


def _one_outlier(array: Array) -> Array:
    changed = array.copy()
    changed.flat[0] = 1000.0
    return changed


def _times(factor: float) -> Callable[[Array], Array]:
    return lambda array: (array.astype(np.float64) * factor).astype(F)


WEIGHTS: Mapping[str, Callable[[Array], Array]] = {
    "normal": lambda w: w,
    "zero": lambda w: 0 * w,
    "denormal": _times(1e-41),
    "1e-38": _times(1e-38),
    "1e-30": _times(1e-30),
    "1e-12": _times(1e-12),
    "1e-6": _times(1e-6),
    "1e4": _times(1e4),
    "1e5": _times(1e5),
    "1e15": _times(1e15),
    "one magnitude": lambda w: np.where(w > 0, F(0.1), F(-0.1)),
    "one outlier": _one_outlier,
}
BIASES: Mapping[str, Callable[[Array], Array]] = {
    "normal": lambda b: b,
    "zero": lambda b: 0 * b,
    "1e-38": _times(1e-38),
    "1e6": _times(1e6),
    "1e12": _times(1e12),
    "one large": lambda b: np.where(np.arange(len(b)) == 0, F(3e5), b),
}
INPUTS: Mapping[str, Callable[[Array], Array]] = {
    "normal": lambda x: x,
    "constant": lambda x: 0 * x + F(0.7),
    "zero": lambda x: 0 * x,
    "one-sided": np.abs,
    "outlier": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 3, F(1e4), x),
    "1e-35": _times(1e-35),
    "1e-20": _times(1e-20),
    "1e-6": _times(1e-6),
    "1e10": _times(1e10),
}
IMAGES = ("Conv", "Conv 1x1", "Conv in groups", "Conv of channels", "ConvTranspose", "ConvTranspose in groups")
ROWS = (
    "MatMul",
    "MatMul, Add",
    "MatMul of a stack",
    "Gemm",
    "Gemm of B'",
    "Gemm with factors",
    "Gemm, b [1]",
    "Gemm, b [1, N]",
)
BETWEEN = ("Relu", "Tanh", "Sigmoid", "Resize", "Add", "Identity")


@dataclass(frozen=True)
class Layer:
    """A site and what follows it.

    Attributes:
        kind: one of `IMAGES` or `ROWS`.
        out: channels of its result.
        weight: key of `WEIGHTS`.
        dead: factor of the first half of the output channels, or None.
        bias: key of `BIASES`, or None.
        between: operators behind it.
    """

    kind: str
    out: int
    weight: str = "normal"
    dead: float | None = None
    bias: str | None = "normal"
    between: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A graph in few words.

    Attributes:
        layers: of the chain.
        rank: sides of an image; 0: rows of a matrix.
        width: channels of the input.
        x: key of `INPUTS`.
        kept: which layers stay float.
        seed: of all numbers.
    """

    layers: tuple[Layer, ...]
    rank: int = 0
    width: int = 4
    x: str = "normal"
    kept: frozenset[int] = frozenset()
    seed: int = 0


def layers(rank: int, widths: st.SearchStrategy[int]) -> st.SearchStrategy[Layer]:
    return st.builds(
        Layer,
        kind=st.sampled_from(IMAGES if rank else ROWS),
        out=widths,
        weight=st.sampled_from(["normal", "normal", "normal", *WEIGHTS]),
        dead=st.sampled_from([None, None, 0.0, 1e-20, 1e-38]),
        bias=st.sampled_from([None, *BIASES]),
        between=st.lists(st.sampled_from(BETWEEN), max_size=2).map(tuple),
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    widths = st.sampled_from([2, 4, 6])
    rank = draw(st.sampled_from([0, 0, 0, 1, 2, 2, 2, 3]))
    return Recipe(
        layers=tuple(draw(st.lists(layers(rank, widths), min_size=1, max_size=3))),
        rank=rank,
        width=draw(widths),
        x=draw(st.sampled_from(["normal", "normal", "normal", *INPUTS])),
        kept=draw(st.frozensets(st.integers(0, 2), max_size=1)),
        seed=draw(st.integers(0, 1000)),
    )


@dataclass
class _Chain:
    """A graph as it grows."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    last: str = "x"

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(F)

    def constant(self, array: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def add(self, op: str, inputs: list[str], name: str = "", **attributes: Any) -> None:
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [result], name or f"n{len(self.nodes)}", **attributes))
        self.last = result


def build(recipe: Recipe) -> tuple[ir.Model, Batches]:
    """The graph and its data; its sites are called `site0`, `site1` and so on."""
    chain = _Chain(np.random.default_rng(recipe.seed))
    shape: list[int | str] = [4, recipe.width, *[4] * recipe.rank] if recipe.rank else [6, recipe.width]
    x = INPUTS[recipe.x](chain.normal(*(int(n) for n in shape)))
    width, stacked = recipe.width, False
    for number, layer in enumerate(recipe.layers):
        # A Gemm reads matrices alone, and one stack is enough.
        kind = "MatMul, Add" if stacked and layer.kind not in ROWS[:2] else layer.kind
        stacked |= kind == "MatMul of a stack"
        width = _site(chain, layer, kind, recipe.rank, width, f"site{number}")
        for op in layer.between:
            _between(chain, op, recipe.rank)
    chain.add("Identity", [chain.last])
    chain.nodes[-1].output[0] = "y"
    rank = 3 if stacked else len(shape)
    return make_graph(chain.nodes, chain.constants, {"x": shape}, {"y": [f"y{i}" for i in range(rank)]}), Batches(
        ({"x": x},)
    )


def _odd(layer: Layer, array: Array, axis: int) -> Array:
    made = WEIGHTS[layer.weight](array)
    if layer.dead is not None:
        part = [slice(None)] * array.ndim
        part[axis] = slice(0, max(array.shape[axis] // 2, 1))
        made = made.copy()
        made[tuple(part)] = _times(layer.dead)(made[tuple(part)])
    return made


def _site(chain: _Chain, layer: Layer, kind: str, rank: int, width: int, name: str) -> int:
    """Add a site; returns the channels of its result."""
    out = width if kind == "Conv of channels" else layer.out
    weight, axis, attributes = _weight_of(chain, kind, rank, width, out)
    inputs = [chain.last, chain.constant(_odd(layer, weight, axis))]
    op = kind.split(" ", maxsplit=1)[0].rstrip(",")
    if layer.bias is None:
        chain.add(op, inputs, name, **attributes)
        return out
    values = BIASES[layer.bias](chain.normal(1 if kind == "Gemm, b [1]" else out))
    bias = chain.constant(values[None] if kind == "Gemm, b [1, N]" else values)
    if op == "MatMul":
        chain.add(op, inputs, name)
        chain.add("Add", [chain.last, bias])
    else:
        chain.add(op, [*inputs, bias], name, **attributes)
    return out


def _weight_of(chain: _Chain, kind: str, rank: int, width: int, out: int) -> tuple[Array, int, dict[str, Any]]:
    """(weight, its axis of output channels, attributes of the node)."""
    if kind == "MatMul of a stack":
        return chain.normal(3, width, out), 2, {}
    if kind == "Gemm of B'":
        return chain.normal(out, width), 0, {"transB": 1}
    if kind in ROWS:
        return chain.normal(width, out), 1, {"alpha": 3.0, "beta": 0.25} if kind == "Gemm with factors" else {}
    groups = {"Conv of channels": width}.get(kind, 2 if kind.endswith("in groups") else 1)
    kernel = 1 if kind == "Conv 1x1" else 3
    attributes = {"pads": [kernel // 2] * 2 * rank, "group": groups}
    if kind.startswith("ConvTranspose"):
        return chain.normal(width, out // groups, *[kernel] * rank), 1, attributes
    return chain.normal(out, width // groups, *[kernel] * rank), 0, attributes


def _between(chain: _Chain, op: str, rank: int) -> None:
    if op == "Resize":
        if rank == 2:
            scales = chain.constant(np.array([1, 1, 2, 2], F))
            chain.add("Resize", [chain.last, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric")
    elif op == "Add":
        first = chain.last
        chain.add("Relu", [first])
        chain.add("Add", [first, chain.last])
    else:
        chain.add(op, [chain.last])
