"""Upscalers whose results are known by arithmetic: the mean of a square around each pixel, enlarged by repetition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.pipelines.upscale import UpscaleSettings

RADIUS = 2
SCALE = 3
TILE = 12


def blur(x: Array) -> Array:
    """[N, C, H, W] -> the same: means of 5 x 5 pixels, zeros beyond the edge as a convolution has them."""
    side = 2 * RADIUS + 1
    padded = np.pad(x, ((0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return np.asarray(windows.mean(axis=(4, 5)), np.float32)


def enlarge(x: Array) -> Array:
    return blur(x).repeat(SCALE, axis=2).repeat(SCALE, axis=3)


def whole(picture: Array) -> Array:
    """[H, W, C] -> [S H, S W, C], without tiles."""
    return enlarge(picture.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)


def settings(**changes: Any) -> UpscaleSettings:
    given: dict[str, Any] = {"scale": SCALE, "channels": 3, "tile": TILE, "overlap": RADIUS}
    return UpscaleSettings(**(given | changes))


def session(*, channels: int = 3, tile: int = TILE, rows: DimSpec | int | None = None) -> ArraySession:
    dim = DimSpec(name="batch", max=4) if rows is None else rows
    batch = dim if isinstance(dim, int) else "batch"

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        return {"large_image": enlarge(values["image"])}

    return ArraySession(
        run,
        Interface(
            inputs=(TensorSpec(name="image", dtype="float32", shape=(batch, channels, tile, tile)),),
            outputs=(
                TensorSpec(name="large_image", dtype="float32", shape=(batch, channels, SCALE * tile, SCALE * tile)),
            ),
            dims=() if isinstance(dim, int) else (dim,),
        ),
    )
