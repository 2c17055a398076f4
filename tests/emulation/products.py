"""Graphs of one product of 8-bit numbers each, and what they must compute: by numpy, in 64-bit integers.

Scales are powers of two and sums stay below 2^24, so that nothing but a wrong product changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from aigc_runtime.core.tensors import Array

__all__ = ["Product", "products"]

ROWS = (1, 2, 5, 16)
DEPTH_WIDTH = ((4, 8), (33, 17), (64, 64), (128, 48))
CONVOLUTIONS = (
    # input channels, output channels, groups, kernel, size of the picture
    (1, 8, 1, 3, 8),
    (3, 8, 1, 3, 8),
    (16, 16, 1, 3, 8),
    (64, 48, 1, 3, 5),
    (64, 64, 1, 1, 6),
    (7, 9, 1, 3, 5),
    (32, 32, 2, 3, 6),
    (24, 24, 4, 1, 4),
    (16, 32, 16, 3, 8),
    (16, 16, 16, 3, 8),
    (64, 64, 64, 3, 8),
    (8, 8, 8, 5, 9),
)
ZERO_POINT = 3
"""Of activations."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A graph, its input, and its result; `error` is how far off it may be, 0 where integers alone decide."""

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    expected: Array
    error: Array | float = 0.0


def products(seed: int = 0) -> Iterator[Product]:
    """All of them: codes at their extremes, where pairs overflow, and codes anywhere."""
    rng = np.random.default_rng(seed)
    for kind in ("extreme", "any"):
        for rows in ROWS:
            for depth, width in DEPTH_WIDTH:
                x, w = _codes(rng, kind, (rows, depth)), _weights(rng, kind, (depth, width))
                yield from _matrices(f"{kind}_{rows}x{depth}x{width}", x, w, rng)
        for channels, outputs, groups, kernel, size in CONVOLUTIONS:
            x = _codes(rng, kind, (1, channels, size, size))
            w = _weights(rng, kind, (outputs, channels // groups, kernel, kernel))
            yield _convolution(f"{kind}_{channels}_{outputs}_{groups}_{kernel}_{size}", x, w, groups, rng)


def _codes(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    if kind == "any":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.choice(np.array([0, 255, 255, 200], dtype=np.uint8), size=shape)


def _weights(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    if kind == "any":
        return rng.integers(-127, 128, shape, dtype=np.int8)
    return rng.choice(np.array([127, 127, -127, 100], dtype=np.int8), size=shape)


def _matrices(name: str, x: Array, w: Array, rng: np.random.Generator) -> Iterator[Product]:
    sums = (x.astype(np.int64) - ZERO_POINT) @ w.astype(np.int64)
    assert np.abs(sums).max() < 2**24
    columns = w.shape[1]
    zero, weight_zero = np.array(ZERO_POINT, np.uint8), np.zeros(columns, np.int8)
    one, scales = np.array(1, np.float32), 2.0 ** rng.integers(-3, 3, columns).astype(np.float32)
    bias = rng.integers(-1000, 1000, columns).astype(np.int32)
    shape = sums.shape

    constants: dict[str, Array] = {"w": w, "z": zero}
    graph = _model("MatMulInteger", "x w z", constants, x, TensorProto.INT32, shape)
    yield Product(name=f"MatMulInteger_{name}", model=graph, feeds={"x": x}, expected=sums)

    codes, scale = _requantized(sums)
    constants = {"w": w, "z": zero, "s": one, "wz": np.array(0, np.int8), "ys": scale, "yz": np.array(128, np.uint8)}
    graph = _model("QLinearMatMul", "x s z w s wz ys yz", constants, x, TensorProto.UINT8, shape)
    yield Product(name=f"QLinearMatMul_{name}", model=graph, feeds={"x": x}, expected=codes)

    constants = {"w": w, "z": zero, "s": one, "ws": scales, "wz": weight_zero, "b": bias}
    graph = _model("QGemm", "x s z w ws wz b", constants, x, TensorProto.FLOAT, shape, domain="com.microsoft")
    yield Product(name=f"QGemm_{name}", model=graph, feeds={"x": x}, expected=(sums + bias) * scales)

    constants = {"w": w, "z": zero, "s": one, "ws": scales, "wz": weight_zero}
    graph = _model("MatMulIntegerToFloat", "x w s ws z wz", constants, x, TensorProto.FLOAT, shape, "com.microsoft")
    yield Product(name=f"MatMulIntegerToFloat_{name}", model=graph, feeds={"x": x}, expected=sums * scales)

    for bits in (4, 8):
        for block in (32, 128):
            yield _blocks(f"MatMulNBits{bits}_{block}_{name}", x, columns, bits, block, rng)


def _blocks(name: str, x: Array, columns: int, bits: int, block: int, rng: np.random.Generator) -> Product:
    """Weights alone are in few bits; level 4 rounds the activations of a block to 8 bits, or leaves them float."""
    depth, half = x.shape[1], 1 << (bits - 1)
    count = -(-depth // block)
    codes = rng.choice(np.array([0, 2 * half - 1, 2 * half - 1]), size=(columns, count, block))
    packed = codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)
    scales = np.ones(columns * count, np.float32)
    activations = x.astype(np.float32) / 64 - 2
    attributes = {"K": depth, "N": columns, "bits": bits, "block_size": block, "accuracy_level": 4}
    graph = _model(
        "MatMulNBits",
        "x w ws",
        {"w": packed.astype(np.uint8), "ws": scales},
        activations,
        TensorProto.FLOAT,
        (len(x), columns),
        "com.microsoft",
        **attributes,
    )
    weight = (codes - half).reshape(columns, -1)[:, :depth].astype(np.float64)
    # A block's activations lie on a grid of 127 steps up to their largest magnitude: half a step off at most, each.
    error = np.abs(weight).sum(axis=1) * np.abs(activations).max() / 254 * 1.01
    expected = activations.astype(np.float64) @ weight.T
    return Product(name=name, model=graph, feeds={"x": activations}, expected=expected, error=error[None])


def _convolution(name: str, x: Array, w: Array, groups: int, rng: np.random.Generator) -> Product:
    outputs, _, kernel, _ = w.shape
    pad = kernel // 2
    bias = rng.integers(-1000, 1000, outputs).astype(np.int32)
    centered = np.pad(x.astype(np.int64) - ZERO_POINT, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    windows = sliding_window_view(centered, (kernel, kernel), axis=(2, 3))[0]
    parts = zip(np.split(windows, groups), np.split(w.astype(np.int64), groups), strict=True)
    sums = np.concatenate([np.einsum("chwij,ocij->ohw", piece, weight) for piece, weight in parts])[None]
    sums = sums + bias[None, :, None, None]
    codes, scale = _requantized(sums)
    constants: dict[str, Array] = {
        "w": w,
        "z": np.array(ZERO_POINT, np.uint8),
        "s": np.array(1, np.float32),
        "ws": np.ones(outputs, np.float32),
        "wz": np.zeros(outputs, np.int8),
        "ys": scale,
        "yz": np.array(128, np.uint8),
        "b": bias,
    }
    graph = _model(
        "QLinearConv",
        "x s z w ws wz ys yz b",
        constants,
        x,
        TensorProto.UINT8,
        sums.shape,
        group=groups,
        pads=[pad] * 4,
    )
    return Product(name=f"QLinearConv_{name}", model=graph, feeds={"x": x}, expected=codes)


def _requantized(sums: Array) -> tuple[Array, Array]:
    """Codes in units of the smallest power of two that takes them all, half to even, and that unit."""
    scale = 2.0 ** np.ceil(np.log2(np.abs(sums).max() / 127))
    return np.clip(np.rint(sums / scale) + 128, 0, 255), np.array(scale, np.float32)


def _model(
    op: str,
    inputs: str,
    constants: Mapping[str, Array],
    x: Array,
    kind: int,
    shape: tuple[int, ...],
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    node = helper.make_node(op, inputs.split(), ["y"], domain=domain, **attributes)
    fed = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    given = helper.make_tensor_value_info("y", kind, shape)
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], op, [fed], [given], stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
