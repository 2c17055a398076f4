"""The memory that enlarging takes: it grows with the width of a picture, not with its area."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.io.png import write_png_bands
from aigc_runtime.pipelines.upscale import UpscalePipeline, UpscaleSettings

Image = pytest.importorskip("PIL.Image")

SCALE, TILE = 4, 32
SLACK_BYTES = 300_000
"""What does not depend on the picture: a tile and its result, the packer's state."""


def pipeline() -> UpscalePipeline:
    session = ArraySession(
        lambda values: {"large_image": values["image"].repeat(SCALE, axis=2).repeat(SCALE, axis=3)},
        Interface(
            inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, TILE, TILE)),),
            outputs=(TensorSpec(name="large_image", dtype="float32", shape=("batch", 3, SCALE * TILE, SCALE * TILE)),),
            dims=(DimSpec(name="batch", max=1),),
        ),
    )
    return UpscalePipeline(session, UpscaleSettings(scale=SCALE, channels=3, tile=TILE, overlap=4))


def picture(width: int, height: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def streamed(image: Array, target: Path) -> None:
    height, width, _ = image.shape
    write_png_bands(target, pipeline().stream(image), (SCALE * height, SCALE * width, 3))


def peak_bytes(run: Callable[[], object]) -> int:
    """Most that is held at once while it runs, beyond what was held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_the_width_and_not_with_the_height(tmp_path: Path) -> None:
    target = tmp_path / "large.png"
    streamed(picture(8, 8), target)  # what is imported once
    peaks = {}
    for size in ((300, 100), (300, 800), (1200, 100)):
        image = picture(*size)
        peaks[size] = peak_bytes(partial(streamed, image, target))
    assert peaks[300, 800] <= peaks[300, 100] + 32 * 700  # indices of the rows
    band = SCALE * 1200 * SCALE * TILE * 3
    assert peaks[1200, 100] - peaks[300, 100] <= 4.5 * 0.75 * band + SLACK_BYTES
    # The check can fail: a picture that is held whole grows with its height.
    whole = [peak_bytes(partial(pipeline().generate, picture(300, height))) for height in (100, 800)]
    assert whole[1] > whole[0] + SCALE * SCALE * 300 * 600 * 3


def test_the_file_is_the_picture(tmp_path: Path) -> None:
    image = picture(70, 45)
    streamed(image, tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as large:
        np.testing.assert_array_equal(np.asarray(large), image.repeat(SCALE, axis=0).repeat(SCALE, axis=1))
