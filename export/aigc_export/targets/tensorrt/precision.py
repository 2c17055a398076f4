"""Proof of the precision that was built: the type of every product, from the network and from the compiled engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aigc_export.errors import PrecisionError
from aigc_export.targets.tensorrt.layers import NARROW_TO_WIDE
from aigc_export.targets.tensorrt.library import Library

__all__ = ["MIN_PROVEN", "PrecisionProof", "network_types", "prove", "telling"]

MIN_PROVEN = 0.99
"""Share of the work asked for in a type that must be built in it."""

_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
_SEE_THROUGH = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
"""Layers that change the shape alone: the type of what stands behind them counts."""

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True, kw_only=True)
class PrecisionProof:
    """The types that the products of an engine are computed in.

    Attributes:
        work: type -> share of all multiply-accumulates; `unknown` where no layer could be held for a product.
        source: `engine` if read from compiled layers, `network` if only from what was handed to the compiler.
        requested: share of the work that was asked for in less than fp32.
        built: share of the work that was asked for in less than fp32 and is built so.
    """

    work: dict[str, float]
    source: Literal["engine", "network"]
    requested: float
    built: float

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.1%} {name}" for name, share in self.work.items())
        return f"{shares} of the work, read from the {self.source}"


def network_types(library: Library, network: Any) -> dict[str, str]:
    """ONNX node -> the type its product has in the network, from the types of both operands.

    A strongly typed network computes a product in the type of its operands. An operand behind a DequantizeLinear counts
    as what is dequantized: that is how 8 bits are written.
    """
    kinds = library.module.LayerType
    producers: dict[str, Any] = {}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        for i in range(layer.num_outputs):
            tensor = layer.get_output(i)
            if tensor is not None:
                producers[tensor.name] = layer
    found: dict[str, str] = {}
    products = {getattr(kinds, name) for name in _PRODUCTS if hasattr(kinds, name)}
    for layer in layers:
        if layer.type not in products:
            continue
        operands = [_operand_type(library, layer.get_input(i), producers) for i in range(min(2, layer.num_inputs))]
        widest = max(operands, key=lambda t: NARROW_TO_WIDE.index(t) if t in NARROW_TO_WIDE else len(NARROW_TO_WIDE))
        for node in _NODE.findall(layer.metadata) or [layer.name]:
            found[node] = widest
    return found


def _operand_type(library: Library, tensor: Any, producers: Mapping[str, Any]) -> str:
    kinds = library.module.LayerType
    passed = {getattr(kinds, name) for name in _SEE_THROUGH if hasattr(kinds, name)}
    while (layer := producers.get(tensor.name)) is not None:
        if layer.type == kinds.DEQUANTIZE:
            return _type_name(layer.get_input(0).dtype)
        if layer.type not in passed:
            break
        tensor = layer.get_input(0)
    return _type_name(tensor.dtype)


def _type_name(dtype: Any) -> str:
    name = str(dtype).rpartition(".")[2]
    return _TYPES.get(name, name.lower())


def telling(
    requested: Mapping[str, str], macs: Mapping[str, int], engine: Mapping[str, str]
) -> Mapping[str, str] | None:
    """Return the engine's types of its products, or None where they are too few for a proof.

    An engine may show a subgraph as one layer. What it does say must not contradict what was asked for: then it counts,
    however little it is.

    Args:
        requested: product of the graph -> type that it should be computed in.
        macs: its multiply-accumulates.
        engine: product -> type, of those that the engine says something about.
    """
    said = sum(macs[node] for node in requested if node in engine)
    contradicts = any(engine.get(node, kind) != kind for node, kind in requested.items())
    return engine if contradicts or said >= MIN_PROVEN * sum(macs[node] for node in requested) else None


def prove(
    requested: Mapping[str, str],
    macs: Mapping[str, int],
    network: Mapping[str, str],
    engine: Mapping[str, str] | None,
) -> PrecisionProof:
    """Prove that products were built in the requested types.

    Args:
        requested: product of the graph -> type that it should be computed in.
        macs: its multiply-accumulates.
        network: types from the network.
        engine: types from the compiled engine; None where it cannot be read.

    Raises:
        PrecisionError: less than `MIN_PROVEN` of the work that was asked for in a type is built in it; names the
            products.
    """
    total = sum(macs[node] for node in requested) or 1
    built = dict(network) if engine is None else dict(engine)
    work: dict[str, int] = {}
    for node in requested:
        kind = built.get(node, "unknown")
        kind = kind if kind in NARROW_TO_WIDE else "unknown"
        work[kind] = work.get(kind, 0) + macs[node]
    missed = [
        node
        for node, kind in requested.items()
        if built.get(node, "unknown") != kind or network.get(node, kind) != kind
    ]
    low = {node for node, kind in requested.items() if kind != "fp32"}
    wrong = sum(macs[node] for node in missed)
    proof = PrecisionProof(
        work={kind: work[kind] / total for kind in sorted(work, key=lambda k: -work[k])},
        source="network" if engine is None else "engine",
        requested=sum(macs[node] for node in low) / total,
        built=sum(macs[node] for node in low.difference(missed)) / total,
    )
    if wrong > (1 - MIN_PROVEN) * total or proof.built < MIN_PROVEN * proof.requested:
        shown = ", ".join(
            f"{node} asked {requested[node]}, network {network.get(node, '-')}, built {built.get(node, 'unknown')}"
            for node in missed[:5]
        )
        raise PrecisionError(
            f"{proof.requested:.1%} of the work was asked for in less than fp32, {proof.built:.1%} is built so",
            hint=f"{len(missed)} products differ: {shown}\nnothing was published",
        )
    return proof
