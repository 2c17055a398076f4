"""What makes small pictures, against Pillow, SciPy and by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from aigc_models.families import degradation as module
from aigc_models.families.degradation import Degradation, degrade, parse_degradation
from aigc_runtime.errors import ConfigError, InputError

STEP = 1 / 255


def pictures(count: int = 2, side: int = 48, *, seed: int = 0) -> Tensor:
    """Smooth pictures in steps of 8 bits."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal((count, 3, side, side)), (0, 0, 2, 2), mode="wrap")
    scaled = (noise - noise.min()) / (noise.max() - noise.min())
    return torch.from_numpy(np.rint(scaled * 255) / 255).float()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_pillows(scale: int) -> None:
    images = pictures()
    small = degrade(images, Degradation(scale=scale), rng())
    for mine, image in zip(small, images, strict=True):
        pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        theirs = Image.fromarray(pixels).resize((48 // scale,) * 2, Image.Resampling.BICUBIC)
        assert np.abs(mine.permute(1, 2, 0).numpy() - np.asarray(theirs) / 255).max() <= 1.01 * STEP


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    images = pictures()
    small = degrade(images, Degradation(scale=4, resize="area"), rng())
    expected = images.double().numpy().reshape(2, 3, 12, 4, 12, 4).mean(axis=(3, 5))
    assert np.abs(small.numpy() - expected).max() <= 0.51 * STEP
    assert torch.equal(small, (small * 255).round() / 255)


def test_blur_is_scipys_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLUR_SIGMA", (1.5, 1.5))
    images = pictures()
    small = degrade(images, Degradation(scale=1, blur=True), rng())
    blurred = gaussian_filter(images.double().numpy(), (0, 0, 1.5, 1.5), mode="mirror", radius=(0, 0, 10, 10))
    assert np.abs(small.numpy() - blurred).max() <= 0.51 * STEP


def test_noise_has_the_deviation_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOISE_SIGMA", (20.0, 20.0))
    gray = torch.full((1, 3, 96, 96), 0.5)
    small = degrade(gray, Degradation(scale=1, noise=True), rng())
    assert float(small.std()) * 255 == pytest.approx(20.0, rel=0.02)
    assert float(small.mean()) == pytest.approx(0.5, abs=0.005)


def test_jpeg_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JPEG_QUALITY", (40, 40))
    for images in (pictures(), pictures()[:, :1]):
        small = degrade(images, Degradation(scale=1, jpeg=True), rng())
        pixels = np.rint(images[1].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(buffer, "JPEG", quality=40)
        expected = np.asarray(Image.open(buffer)).reshape(pixels.shape)
        np.testing.assert_array_equal(np.rint(small[1].permute(1, 2, 0).numpy() * 255), expected)


def test_each_picture_has_its_own_and_a_seed_repeats_them() -> None:
    same = pictures(1).repeat(2, 1, 1, 1)
    every = Degradation(scale=2, blur=True, noise=True, jpeg=True)
    first = degrade(same, every, rng(1))
    assert torch.equal(first, degrade(same, every, rng(1)))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, degrade(same, every, rng(2)))


def test_words() -> None:
    assert parse_degradation("bicubic, noise", 4) == Degradation(scale=4, noise=True)
    assert parse_degradation("jpeg,blur", 2) == Degradation(scale=2, blur=True, jpeg=True)
    for text in ("", "bicubik", "bicubic,area", "blur,blur", "bicubic;blur"):
        with pytest.raises(InputError, match=r"degradation is '.*'\nmust be bicubic or area, and blur, noise, jpeg"):
            parse_degradation(text, 2)


def test_sides_that_are_no_multiples_and_no_such_scale() -> None:
    with pytest.raises(ConfigError, match="pictures are 48x48\nboth sides must be multiples of the scale 5"):
        degrade(pictures(), Degradation(scale=5), rng())
    with pytest.raises(ConfigError, match=r"Degradation.scale is 0"):
        Degradation(scale=0)
    with pytest.raises(ConfigError, match=r"Degradation.resize is 'nearest'"):
        Degradation(scale=2, resize="nearest")
