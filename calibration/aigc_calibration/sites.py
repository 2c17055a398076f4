"""Find where a graph can be quantized: its MatMul, Gemm, Conv and ConvTranspose nodes.

A *site* is one such node with its activations and, where it has one, its weight. A product of two activations
(attention) is a site without a weight.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_calibration.bodies import bodies
from aigc_calibration.computed import sizes_of
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "SCOPES",
    "SITE_OPS",
    "Site",
    "activation_channel_axis",
    "copies",
    "find_sites",
    "inner_sites",
    "module_path",
    "output_channel_axis",
    "scope_path",
    "weight_array",
]

SITE_OPS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_COPYING = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"})
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter notes the modules that a node is in, from the outermost to the node's own name."""
_PARAMETER = re.compile(r"model\.(.+)\.weight")
"""What the exporter calls a parameter of the wrapped model."""
_WEIGHT = 1
"""All four operators take the weight as their second input and the bias as their third."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One node that could be quantized.

    Attributes:
        node: its name.
        op_type: its operator.
        module: path of the PyTorch module that it came from; empty where the graph does not say.
        activations: names of the values that are computed at run time and enter the product.
        weight: name of the constant that enters it, or None.
        shape: of the weight as it is stored; empty without one.
        channel_axis: the axis of the weight that holds output channels.
        input_axis: the axis of the weight that is summed over (for convolutions: input channels).
        bias: name of the bias, or None.
        output: name of the result.
        within: what it lies in, such as "a body of the Loop 'steps'"; empty in the main graph.
    """

    node: str
    op_type: str
    module: str
    activations: tuple[str, ...]
    weight: str | None
    shape: tuple[int, ...]
    channel_axis: int
    input_axis: int
    bias: str | None
    output: str
    within: str = ""


def find_sites(model: ir.Model) -> tuple[Site, ...]:
    """Every site of the main graph, in its order: those that can be quantized; see `inner_sites` for the others."""
    return tuple(_sites(model.graph))


def inner_sites(model: ir.Model) -> tuple[Site, ...]:
    """Products inside bodies of If, Loop and Scan, at any depth, and in functions that were not inlined.

    They cannot be quantized: their values cannot be made outputs, so that no calibration sees them, and they are
    computed never, once or many times.
    """
    found = [s for body, node in bodies(model.graph) for s in _sites(body, _body_of(node))]
    for function in model.functions.values():
        name = f"the function {function.domain}::{function.name}"
        found += _sites(function.graph, name)
        found += [s for body, node in bodies(function.graph) for s in _sites(body, f"{_body_of(node)} of {name}")]
    return tuple(found)


def _body_of(node: ir.Node) -> str:
    return f"a body of the {node.op_type} {str(node.name)!r}"


def _sites(graph: ir.Graph, within: str = "") -> Iterator[Site]:
    for node in graph:
        if node.domain not in {"", "ai.onnx"} or node.op_type not in SITE_OPS:
            continue
        x, w = node.inputs[0], node.inputs[_WEIGHT]
        if x is None or w is None or x.const_value is not None:
            continue
        constant = w.const_value is not None
        shape = () if w.const_value is None else sizes_of(w.const_value)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        channel, summed = _axes(node, len(shape))
        yield Site(
            node=str(node.name),
            op_type=node.op_type,
            module=module_path(node),
            activations=(str(x.name),) if constant else (str(x.name), str(w.name)),
            weight=str(w.name) if constant else None,
            shape=shape,
            channel_axis=channel,
            input_axis=summed,
            bias=None if bias is None else str(bias.name),
            output=str(node.outputs[0].name),
            within=within,
        )


def copies(node: ir.Node) -> bool:
    """Check whether every number of a node's result is one of its first input's."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in _COPYING


def activation_channel_axis(op_type: str) -> int:
    """The axis of channels in what a site reads and makes."""
    return 1 if op_type in {"Conv", "ConvTranspose"} else -1


def output_channel_axis(node: ir.Node) -> int:
    """The axis of output channels in the weight of a Conv, ConvTranspose or Gemm."""
    return _axes(node, 2)[0]


def _axes(node: ir.Node, rank: int) -> tuple[int, int]:
    """(output channels, summed) of the weight, by the operator's specification (ONNX opset 20)."""
    if node.op_type == "Conv":  # [M, C / group, ...]
        return 0, 1
    if node.op_type == "ConvTranspose":  # [C, M / group, ...]
        return 1, 0
    transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int() != 0
    return (0, 1) if transposed else (rank - 1, max(rank - 2, 0))


def module_path(node: ir.Node) -> str:
    """The path of the PyTorch module that a node came from, as the exporter recorded it.

    A convolution that a batch normalization was folded into carries the scopes of the normalization; the name of its
    weight says whose it is.
    """
    weight = node.inputs[_WEIGHT] if len(node.inputs) > _WEIGHT else None
    if node.op_type.startswith("Conv") and weight is not None and weight.const_value is not None:
        named = _PARAMETER.fullmatch(str(weight.name))
        if named is not None:
            return named[1]
    return scope_path(node)


def scope_path(node: ir.Node) -> str:
    """The path of the PyTorch module that a node came from, as the exporter recorded it; see `module_path`."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    paths = [s for s in scopes[:-1] if s]
    return paths[-1].removeprefix("model").removeprefix(".") if paths else ""


def weight_array(model: ir.Model, name: str) -> Array:
    """The values of a constant."""
    tensor = model.graph.initializers[name].const_value
    if tensor is None:
        raise ValueError(f"{name!r} is not a constant")
    result: Array = tensor.numpy()
    return result
