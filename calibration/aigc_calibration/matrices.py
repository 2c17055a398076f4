"""Weights as matrices [in, out]: what GPTQ, blocks and second moments need, and back again.

A convolution is a product with patches of its input; a transposed one is a product with the channels of one input
position, whose result is then spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.sites import Site
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Reading", "from_matrix", "reading_of", "to_matrix"]


def to_matrix(site: Site, weight: Array) -> Array:
    """Reshape a weight to a matrix [in, out], whose rows are summed over."""
    if site.op_type == "Conv":  # [M, C, ...] -> [C * ..., M]
        return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)
    if site.op_type == "ConvTranspose":  # [C, M, ...] -> [C, M * ...]
        return weight.reshape(weight.shape[0], -1)
    return weight if site.input_axis == 0 else np.ascontiguousarray(weight.T)


def from_matrix(site: Site, matrix: Array) -> Array:
    """Reshape a matrix [in, out] back to the layout of the weight."""
    if site.op_type == "Conv":
        return np.ascontiguousarray(matrix.T).reshape(site.shape)
    if site.op_type == "ConvTranspose":
        return matrix.reshape(site.shape)
    return matrix if site.input_axis == 0 else np.ascontiguousarray(matrix.T)


@dataclass(frozen=True)
class Reading:
    """The rows of a site's input that its matrix multiplies.

    Attributes:
        value: name of the input.
        width: of a row.
        kind: `last` axis, `channels` of an image, or `patches` of one.
        kernel: sizes of a patch; empty for the other kinds, as are the next three.
        pads: before and after, per side.
        strides: per side.
        dilations: per side.
    """

    value: str
    width: int
    kind: str
    kernel: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    def rows(self, values: Array) -> Array:
        """Extract the rows [rows, width] that the matrix multiplies."""
        if self.kind == "patches":
            return self._patches(values).reshape(-1, self.width)
        return self._vectors(values)

    def drawn(self, values: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Extract some of the rows, each at most once, without making the others.

        Args:
            values: of the input.
            count: how many; all where there are not as many.
            rng: draws them.

        Returns:
            The rows [drawn, width], and their places among all of them, ascending.
        """
        found = self._patches(values) if self.kind == "patches" else self._vectors(values)
        sides = found.shape[: 1 + len(self.kernel)]
        total = int(np.prod(sides))
        places = np.arange(total) if count >= total else np.sort(rng.choice(total, count, replace=False))
        return found[np.unravel_index(places, sides)].reshape(-1, self.width), places

    def _vectors(self, values: Array) -> Array:
        if self.kind == "channels":
            values = np.moveaxis(values, 1, -1)
        return values.reshape(-1, self.width)

    def _patches(self, values: Array) -> Array:
        """[N, *out, C, *kernel], a view of the padded values."""
        sides = len(self.kernel)
        padding = [(0, 0), (0, 0), *((self.pads[i], self.pads[i + sides]) for i in range(sides))]
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(values, padding), reach, axis=tuple(range(2, 2 + sides))
        )
        steps = tuple(slice(None, None, s) for s in self.strides)
        taps = tuple(slice(None, None, d) for d in self.dilations)
        patches = windows[(slice(None), slice(None), *steps, *taps)]  # [N, C, *out, *kernel]
        return np.moveaxis(patches, 1, 1 + sides)


def reading_of(model: ir.Model, site: Site) -> Reading | None:
    """How a site with a weight reads its input; None where it is no plain product (groups, automatic padding)."""
    value, shape = site.activations[0], site.shape
    if site.op_type == "MatMul":
        return Reading(value, shape[0], "last") if len(shape) == 2 else None
    node = next(n for n in model.graph if n.name == site.node)
    attributes = node.attributes
    if site.op_type == "Gemm":
        return None if attributes.get_int("transA", 0) else Reading(value, shape[site.input_axis], "last")
    if attributes.get_int("group", 1) != 1 or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    if site.op_type == "ConvTranspose":
        return Reading(value, shape[0], "channels")
    sides = len(shape) - 2
    return Reading(
        value,
        int(np.prod(shape[1:])),
        "patches",
        tuple(shape[2:]),
        tuple(attributes.get_ints("pads", [0] * 2 * sides)),
        tuple(attributes.get_ints("strides", [1] * sides)),
        tuple(attributes.get_ints("dilations", [1] * sides)),
    )
