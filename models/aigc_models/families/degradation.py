"""Make the small picture of which a generator learns to make the large one.

Shapes: B batch, C channels (1 or 3), H height, W width, S scale.

Reference:
    Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833): eq. 1, x = JPEG((y * k) down_S + n), once; the ranges
        of section 4.1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_models.families.layers import require_one_of
from aigc_runtime.errors import ConfigError, InputError

__all__ = ["BLUR_RADIUS", "Degradation", "degrade", "parse_degradation"]

RESIZES, DAMAGES = ("bicubic", "area"), ("blur", "noise", "jpeg")
BLUR_SIGMA = (0.2, 3.0)
BLUR_RADIUS = 10
"""Pixels: kernels are 21 wide, the largest of the paper."""
NOISE_SIGMA = (1.0, 30.0)
"""In steps of 8 bits."""
JPEG_QUALITY = (30, 95)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What is done to a large picture.

    Attributes:
        scale: S.
        resize: `bicubic` with a filter as wide as the scale, or `area`, the mean of what a pixel covers.
        blur: a Gaussian in front of it, of a deviation drawn for each picture.
        noise: Gaussian noise behind it, likewise.
        jpeg: written and read as a JPEG at the end, of a quality drawn for each picture.
    """

    scale: int
    resize: str = "bicubic"
    blur: bool = False
    noise: bool = False
    jpeg: bool = False

    def __post_init__(self) -> None:
        require_one_of("Degradation", "resize", self.resize, RESIZES)
        if isinstance(self.scale, bool) or not isinstance(self.scale, int) or self.scale < 1:
            raise ConfigError(f"Degradation.scale is {self.scale!r}", hint="must be 1 or more")


def parse_degradation(text: str, scale: int) -> Degradation:
    """Read `bicubic` or `area`, and what else is done, with commas between them.

    >>> parse_degradation("area,jpeg", 2)
    Degradation(scale=2, resize='area', blur=False, noise=False, jpeg=True)

    Raises:
        InputError: another word, one twice, or two ways to resize.
    """
    words = [word.strip() for word in text.split(",")]
    resizes = [word for word in words if word in RESIZES]
    if any(word not in (*RESIZES, *DAMAGES) for word in words) or len(set(words)) < len(words) or len(resizes) > 1:
        raise InputError(
            f"degradation is {text!r}",
            hint=f"must be {' or '.join(RESIZES)}, and {', '.join(DAMAGES)} as wanted, such as bicubic,blur,jpeg",
        )
    return Degradation(
        scale=scale,
        resize=resizes[0] if resizes else "bicubic",
        blur="blur" in words,
        noise="noise" in words,
        jpeg="jpeg" in words,
    )


def degrade(images: Tensor, degradation: Degradation, rng: torch.Generator) -> Tensor:
    """Make small pictures: blurred, resized, with noise, as JPEGs, each where it was asked for (eq. 1).

    Args:
        images: [B, C, S H, S W] in [0, 1], on the processor.
        degradation: what is done.
        rng: source of deviations, noise and qualities.

    Returns:
        [B, C, H, W] in [0, 1], in steps of 1/255, as files hold them.

    Raises:
        ConfigError: sides that are no multiples of S.
    """
    s = degradation.scale
    height, width = images.shape[-2:]
    if height % s or width % s:
        raise ConfigError(f"pictures are {width}x{height}", hint=f"both sides must be multiples of the scale {s}")
    if degradation.blur:
        sigmas = _uniform(BLUR_SIGMA, len(images), rng)
        images = torch.stack([_blurred(one, sigma) for one, sigma in zip(images, sigmas.tolist(), strict=True)])
    size = (height // s, width // s)
    if degradation.resize == "area":
        images = F.interpolate(images, size=size, mode="area")
    elif s > 1:
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
    if degradation.noise:
        sigmas = _uniform(NOISE_SIGMA, len(images), rng).view(-1, 1, 1, 1) / 255
        images = images + sigmas * torch.randn(images.shape, generator=rng)
    images = (images.clamp(0, 1) * 255).round()
    if degradation.jpeg:
        low, high = JPEG_QUALITY
        qualities = torch.randint(low, high + 1, (len(images),), generator=rng).tolist()
        images = torch.stack([_jpeg(one, quality) for one, quality in zip(images, qualities, strict=True)])
    return images / 255


def _uniform(bounds: tuple[float, float], count: int, rng: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=rng)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """[C, H, W] by a Gaussian, first along the height, then along the width; the border is reflected."""
    x = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    channels = image.shape[0]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = F.pad(image[None], (BLUR_RADIUS,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), rows.transpose(2, 3), groups=channels)[0]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """[C, H, W] in 0 to 255 as a JPEG gives it back."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="JPEG", quality=quality)
    read = np.asarray(Image.open(buffer), dtype=np.float32)
    return torch.from_numpy(read.reshape(pixels.shape)).permute(2, 0, 1)
