"""Find what TensorRT would accept in silence and compute otherwise, in the graph before it is built, node by node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aigc_calibration.bodies import proto_graphs, proto_nodes
from aigc_export.errors import GraphRefusedError
from aigc_export.targets.tensorrt.library import Library
from aigc_runtime.backends.trt import rebuild
from aigc_runtime.device.capability import capability_number
from aigc_runtime.device.probe import probe_device

if TYPE_CHECKING:
    import onnx

__all__ = ["MIN_CAPABILITY", "check_graph", "check_turing", "nodes_that_read", "target_capabilities"]

MIN_CAPABILITY = {"BFLOAT16": rebuild.LEAST_CAPABILITY["bf16"], "FLOAT8E4M3FN": rebuild.LEAST_CAPABILITY["fp8"]}
"""ONNX type -> the first device that multiplies such numbers."""

_NONPAD_INPUT = 6
"""Position of `nonpad_kv_seqlen` among the inputs of Attention (opset 24)."""


_TURING = "7.5"
_TURING_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
"""Operators whose fp32 products TensorRT-RTX 1.7 does not compile for Turing; convolutions and Attention it does."""


def target_capabilities(library: Library, named: tuple[str, ...]) -> tuple[str, ...]:
    """Devices that an engine is for: those that are named, or the one here that the library builds for.

    Args:
        library: that builds.
        named: by the user; none for a library that builds for the device at hand.

    Returns:
        Compute capabilities; empty where no driver tells the device.
    """
    if named or library.ahead_of_time:
        return named
    return tuple(gpu.compute_capability for gpu in probe_device().gpus[:1])


def check_graph(graph: onnx.GraphProto, capabilities: Iterable[str]) -> None:
    """Refuse what would build and then be wrong, or not run.

    1. `Attention` with `is_causal`: TensorRT aligns the mask with the upper left corner, so that the newest query of a
       decoding step sees the oldest key alone.
    2. `Attention` with `nonpad_kv_seqlen`: the parser drops it.
    3. A type that a named device cannot multiply: fp8 builds for the devices that can, and quietly not for the rest.

    Args:
        graph: as it will be parsed.
        capabilities: devices to build for, where they are known.

    Raises:
        GraphRefusedError: names the node.
    """
    for node in proto_nodes(graph):
        if node.op_type == "Attention":
            _check_attention(node)
    types = {t.name: t.data_type for one in proto_graphs(graph) for t in one.initializer}
    for name, least in MIN_CAPABILITY.items():
        too_old = [c for c in capabilities if capability_number(c) < capability_number(least)]
        if too_old and (node_name := _first_of_type(graph, types, name)) is not None:
            raise GraphRefusedError(
                f"node {node_name!r} holds {name} numbers, which devices of compute capability "
                f"{', '.join(too_old)} cannot multiply",
                hint=f"choose another precision, or devices of {least} and later",
            )


def check_turing(model: onnx.ModelProto, capabilities: Iterable[str]) -> None:
    """Refuse fp32 products for devices of capability 7.5, which TensorRT-RTX does not compile.

    A product of 8 bits counts too: its operands are fp32 numbers behind a DequantizeLinear, and it ends the same way.

    Args:
        model: as it will be parsed.
        capabilities: devices to build for.

    Raises:
        GraphRefusedError: names the first such node.
    """
    import onnx

    if _TURING not in capabilities:
        return
    graph = onnx.shape_inference.infer_shapes(model).graph
    types: dict[str, int] = {}
    for one in proto_graphs(graph):
        types |= {v.name: v.type.tensor_type.elem_type for v in (*one.input, *one.value_info, *one.output)}
        types |= {t.name: t.data_type for t in one.initializer}
    for node in proto_nodes(graph):
        if node.op_type in _TURING_PRODUCTS and types.get(node.input[0]) == onnx.TensorProto.FLOAT:
            raise GraphRefusedError(
                f"node {node.name!r}: TensorRT-RTX has no fp32 {node.op_type} for devices of compute capability "
                f"{_TURING}, nor one of 8 bits between fp32 numbers",
                hint=f"--precision fp16 builds for {_TURING}; or leave --compute-capability {_TURING} out",
            )


def _check_attention(node: onnx.NodeProto) -> None:
    if any(a.name == "is_causal" and a.i for a in node.attribute):
        raise GraphRefusedError(
            f"node {node.name!r}: Attention with is_causal aligns its mask with the oldest key in TensorRT, "
            "which is wrong with a cache",
            hint="export the mask as an input of Attention",
        )
    if len(node.input) > _NONPAD_INPUT and node.input[_NONPAD_INPUT]:
        raise GraphRefusedError(
            f"node {node.name!r}: TensorRT drops Attention's nonpad_kv_seqlen, here {node.input[_NONPAD_INPUT]!r}",
            hint="export the mask as an input of Attention",
        )


def _first_of_type(graph: onnx.GraphProto, types: dict[str, int], wanted: str) -> str | None:
    import onnx

    number = onnx.TensorProto.DataType.Value(wanted)
    for node in proto_nodes(graph):
        casts = node.op_type == "Cast" and any(a.name == "to" and a.i == number for a in node.attribute)
        if casts or any(types.get(name) == number for name in node.input):
            return str(node.name)
    return None


def nodes_that_read(graph: onnx.GraphProto, value: str) -> list[str]:
    """Names of the nodes that read a value."""
    return [str(node.name) for node in proto_nodes(graph) if value in node.input]
