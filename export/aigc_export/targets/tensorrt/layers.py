"""The layers of a compiled TensorRT engine: which ONNX nodes each one computes, and with operands of which type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["EngineLayer", "built_types", "nodes_in", "parse_layer", "types_of"]

TYPE_NAMES: Mapping[str, str] = {
    "Float": "fp32",
    "Half": "fp16",
    "BFloat16": "bf16",
    "Int8": "int8",
    "FP8": "fp8",
    "Int4": "int4",
}
"""As the builder prints a type -> as a manifest does."""

NARROW_TO_WIDE = ("int4", "fp8", "int8", "bf16", "fp16", "fp32")

_RANKS = (frozenset({"gemm", "correlation", "deconv"}), frozenset({"runtime_fusion"}))
"""Kinds of layers that compute products, the surest first. Generated kernels (`kgen`) come last: most only scale or
move the operands and results of a product, but a fused attention is one, too."""


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: the builder's.
        kind: `gemm`, `correlation` (a convolution), `kgen` (a generated kernel), ...
        operands: types of its inputs and constants; integers that index are left out.
        nodes: ONNX nodes that it computes, wholly or in part.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def product_type(self) -> str | None:
        """The narrowest type that two operands have: that of a product of the two; None for anything else.

        A fused bias, scale or residual is wider, and there is one of its type for every product at most.
        """
        for name in NARROW_TO_WIDE:
            if self.operands.count(name) >= 2:
                return name
        return None


_FIELDS = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), (?P<rest>.*)")
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def nodes_in(metadata: str) -> tuple[str, ...]:
    """List the ONNX nodes that a layer's metadata names.

    >>> nodes_in("[ONNX Layer: a][ONNX Layer: b]")
    ('a', 'b')
    """
    return tuple(_NODE.findall(metadata))


def parse_layer(line: str) -> EngineLayer | None:
    """Read one line of the builder's list of layers; None for a line of another form."""
    match = _FIELDS.match(line)
    if match is None:
        return None
    operands, _, _ = match["rest"].partition("Outputs: [")
    types = (TYPE_NAMES.get(found) for found in _TYPE.findall(operands))
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        operands=tuple(t for t in types if t is not None),
        nodes=nodes_in(match["rest"]),
    )


def built_types(lines: Sequence[str], nodes: Iterable[str]) -> dict[str, str]:
    """`types_of` the builder's list of layers, one line each."""
    return types_of([layer for layer in map(parse_layer, lines) if layer is not None], nodes)


def types_of(layers: Sequence[EngineLayer], nodes: Iterable[str]) -> dict[str, str]:
    """Map each ONNX node to the type its product is computed in.

    Several layers may list a node: the one that multiplies is known by its kind, and of equals the widest type counts.
    A node that no layer lists, or only layers that multiply nothing, is left out.

    Args:
        layers: of the engine.
        nodes: products of the graph.
    """
    listed: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for node in layer.nodes:
            listed.setdefault(node, []).append(layer)
    found = {}
    for node in nodes:
        ranked = sorted({_rank(layer) for layer in listed.get(node, ())})
        for rank in ranked:
            types = [t for layer in listed[node] if _rank(layer) == rank and (t := layer.product_type) is not None]
            if types:
                found[node] = max(types, key=NARROW_TO_WIDE.index)
                break
    return found


def _rank(layer: EngineLayer) -> int:
    for rank, kinds in enumerate(_RANKS):
        if layer.kind in kinds:
            return rank
    # A generated kernel that multiplies says so in its name; any other is asked last.
    return len(_RANKS) + (0 if "gemm" in layer.name.lower() else 1)
