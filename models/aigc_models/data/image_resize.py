"""Pictures in the size and channels of a model: cut to its aspect ratio, resized by area, gray or RGB.

Shapes: C channels, H height, W width. All in float: nothing is rounded to 8 bits on the way.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["LUMA", "as_channels", "cut_to_aspect", "resize"]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), on the encoded values, as Pillow and OpenCV have them."""


def cut_to_aspect(pixels: Array, height: int, width: int) -> Array:
    """The largest middle part of [C, H, W] with the aspect ratio of height : width.

    >>> cut_to_aspect(np.zeros((1, 4, 9)), 8, 8).shape
    (1, 4, 4)
    """
    h, w = pixels.shape[1:]
    if h * width > w * height:
        h_cut, w_cut = max(1, round(w * height / width)), w
    else:
        h_cut, w_cut = h, max(1, round(h * width / height))
    top, left = (h - h_cut) // 2, (w - w_cut) // 2
    return pixels[:, top : top + h_cut, left : left + w_cut]


def resize(pixels: Array, height: int, width: int) -> Array:
    """[C, H, W] -> [C, height, width]: by area where a side shrinks, linear where it grows, as it is where it stays.

    By area, every new pixel is the mean of the part of the picture that it covers, borders in proportion: nothing of
    the picture is passed over, so there is no aliasing, and no value lies outside those of the picture.
    """
    h, w = pixels.shape[1:]
    if (h, w) == (height, width):
        return pixels
    resized: Array = _weights(h, height) @ pixels.astype(np.float64) @ _weights(w, width).T
    return resized.astype(pixels.dtype)


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> Array:
    """[new, old] weights, each row of sum 1."""
    scale = old / new
    if new >= old:  # the distance to the two nearest centers; the border repeats
        centers = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)
        linear: Array = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(old)))
        return linear
    edges = np.arange(new + 1) * scale
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(high, np.arange(1, old + 1)) - np.maximum(low, np.arange(old))
    weights = np.maximum(0, overlap)
    normalized: Array = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def as_channels(pixels: Array, channels: int) -> Array:
    """[C, H, W] with 1 or 3 channels: gray repeated, RGB weighted by `LUMA`."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    gray: Array = np.tensordot(np.asarray(LUMA), pixels.astype(np.float64), axes=1)[None]
    return gray.astype(pixels.dtype)
