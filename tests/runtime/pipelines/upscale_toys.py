"""Upscalers whose results are known by arithmetic: the mean of a square around each pixel, enlarged by repetition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import PipelineInfo, Reference, ReferenceCase, ReferenceGeneration, ReferenceStep
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.upscale import UpscalePipeline, UpscaleSettings

from .. import toys

RADIUS = 2
SCALE = 3
TILE = 12


def blur(x: Array) -> Array:
    """[N, C, H, W] -> the same: means of 5 x 5 pixels, zeros beyond the edge as a convolution has them."""
    side = 2 * RADIUS + 1
    padded = np.pad(x, ((0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    means: Array = windows.mean(axis=(4, 5))
    return means.astype(np.float32)


def enlarge(x: Array) -> Array:
    large: Array = blur(x).repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    return large


def whole(picture: Array) -> Array:
    """[H, W, C] -> [S H, S W, C], without tiles."""
    large: Array = enlarge(picture.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)
    return large


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


def write(folder: Path) -> Path:
    """A bundle whose manifest is that of an upscaler; its engine is another's, and is never run."""
    made, files = toys.toy_manifest("toy_gan")
    opened = session()
    tile = np.random.default_rng(0).random((1, 3, TILE, TILE), np.float32)
    picture = tile[0].transpose(1, 2, 0)
    arrays = {
        "in.npy": tile,
        "out.npy": enlarge(tile),
        "picture.npy": picture,
        "large.npy": UpscalePipeline(opened, settings()).generate(np.ascontiguousarray(picture)),
    }
    files = {"model.onnx": files["model.onnx"], **{name: write_npy(array) for name, array in arrays.items()}}
    step = ReferenceStep(engine="model", inputs={"image": "in.npy"}, outputs={"large_image": "out.npy"})
    engine = replace(made.engines["model"], interface=toys.stored_interface(opened.interface))
    manifest = replace(
        made,
        name="toy_upscale",
        engines={"model": engine},
        pipeline=PipelineInfo.of(settings()),
        reference=Reference(
            cases=(ReferenceCase(name="case", steps=(step,)),),
            generation=ReferenceGeneration(
                request={}, arrays={"image": "picture.npy"}, outputs={"picture": "large.npy"}
            ),
        ),
    )
    write_bundle(folder / "toy_upscale", manifest, files)
    return folder / "toy_upscale"
