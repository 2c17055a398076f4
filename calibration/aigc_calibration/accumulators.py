"""Scales of weights with which sums of 8-bit products fit in 32 bits, the bias beside them.

An engine adds s products of codes c_x c_w, and the bias as a code of the same unit s_x s_w, in int32; what does not fit
wraps around. So the scale s_w of an output channel is at least such that

1. the unit s_x s_w is a normal float32, also where threads flush others to zero;
2. the code of the bias takes no more than half of the range: |b| / (s_x s_w) <= 2^30;
3. nor do the products: 255 sum |c_w| <= 2^30, which matters beyond some 33,000 terms.

A channel that is dead, or whose weights were decayed to nothing beside its bias, thus takes the scale of its bias: what
rounding to it loses of the weights is 2^-31 of the bias for each term, near what float32 loses of their sum.
"""

from __future__ import annotations

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["HALF_RANGE", "MIN_UNIT", "fits", "least_scales"]

HALF_RANGE = 2.0**30
"""Of 32 bits with a sign: what the bias may take, and as much is left to the products."""
MIN_UNIT = 2.0**-116
"""Of the products: a thousand times the smallest normal float32."""
_LARGEST_CODE = 255


def least_scales(weight: Array, axis: int, bias: Array | None, step: float) -> Array:
    """Compute the smallest scale of every output channel, [channels] float64.

    Args:
        weight: any shape.
        axis: of the output channels.
        bias: [channels], or None.
        step: s_x, the scale of the activation.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    least = np.full(len(rows), MIN_UNIT / step)
    if bias is not None:
        least = np.maximum(least, np.abs(bias.astype(np.float64)) / (HALF_RANGE * step))
    # Rounding adds at most half a code to each term.
    room = max(HALF_RANGE / _LARGEST_CODE - rows.shape[1] / 2, HALF_RANGE / _LARGEST_CODE / 2)
    return np.asarray(np.maximum(least, np.abs(rows).sum(axis=1) / room))


def fits(codes: Array, axis: int, bias: Array | None) -> bool:
    """Check that no sum can leave int32.

    Args:
        codes: of the weight.
        axis: of its output channels.
        bias: its codes, [channels], or None.
    """
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.float64)
    largest = _LARGEST_CODE * np.abs(rows).sum(axis=1) + (0 if bias is None else np.abs(bias))
    return bool((largest < 2.0**31).all())
