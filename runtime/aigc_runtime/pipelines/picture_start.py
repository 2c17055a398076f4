"""What the first step of a sampler begins with: noise, a picture under noise, or noise that a picture lies beside.

Shapes: n pictures, C channels of a latent, h and w its sides.

The generator of a picture draws, as in diffusers: the latents of the whole picture, the noise, the latents of what the
mask leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.samplers import Denoise, Prediction
from aigc_runtime.generation.schedules import Levels
from aigc_runtime.pipelines.text_to_image_request import PictureRequest
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

__all__ = ["EncodedPicture", "KeptPicture", "Start", "begin", "draw_rows"]

Distribution = tuple[Array, "Array | None"]
"""Mean and deviation of latents [1, C, h, w]; None for none."""


@dataclass(frozen=True, kw_only=True)
class EncodedPicture:
    """What the autoencoder made of a picture.

    Attributes:
        whole: of all of it; None where it is not needed.
        left: of what the mask leaves; likewise.
        draws: whether latents are drawn from a distribution.
    """

    whole: Distribution | None = None
    left: Distribution | None = None
    draws: bool = False


@dataclass(frozen=True, kw_only=True)
class KeptPicture:
    """The part of a picture that stays, for a UNet that knows nothing of it: put back before every step.

    Attributes:
        clean: latents of the picture, [n, C, h, w].
        noise: that the run began with.
        mask: 1 where the picture is made anew, [1, 1, h, w].
    """

    clean: Array
    noise: Array
    mask: Array

    def around(self, denoise: Denoise, levels: Levels) -> Denoise:
        """A model that sees, where the picture stays, the picture under the noise of each level."""

        def blended(x: Array, i: int) -> Prediction:
            if i:
                there = np.float32(levels.alpha[i]) * self.clean + np.float32(levels.sigma[i]) * self.noise
                x[...] = (1 - self.mask) * there + self.mask * x
            return denoise(x, i)

        return blended

    def at_the_end(self, x: Array) -> Array:
        """The last sample, with the picture itself where it stays."""
        return np.asarray((1 - self.mask) * self.clean + self.mask * x)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with.

    Attributes:
        x: its first sample.
        levels: that it visits.
        beside: what the UNet takes beside the sample: mask and latents of what the mask leaves.
        keeps: the picture that is put back before every step.
    """

    x: Array
    levels: Levels
    beside: Array | None = None
    keeps: KeptPicture | None = None


def begin(
    request: PictureRequest,
    encoded: EncodedPicture,
    settings: TextToImageSettings,
    generators: Sequence[TorchGenerator],
) -> Start:
    """Draw what the first step of a sampler begins with.

    Args:
        request: that is carried out.
        encoded: its picture.
        settings: of the pipeline.
        generators: of the pictures of this run, which nothing was drawn from yet.
    """
    levels, given = request.sampling.levels, request.given
    n, shape = len(generators), request.latent_shape
    if given is None:
        return Start(x=draw_rows(generators, (n, *shape)), levels=levels)
    clean = None if encoded.whole is None else _latents(encoded.whole, generators, settings)
    noise = draw_rows(generators, (n, *shape))
    x: Array = noise
    if clean is not None and not request.starts_from_noise:
        levels = replace(levels, first_noise=1.0)
        x = np.float32(levels.alpha[0]) * clean + np.float32(levels.sigma[0]) * noise
    if given.mask is None:
        return Start(x=x, levels=levels)
    mask = given.latent_mask(settings.latent_scale)
    if encoded.left is not None:
        left = _latents(encoded.left, generators, settings)
        return Start(x=x, levels=levels, beside=np.concatenate([np.repeat(mask, n, axis=0), left], axis=1))
    if encoded.draws:  # diffusers encodes what the mask leaves even for a UNet that does not take it
        draw_rows(generators, (n, *shape))
    assert clean is not None
    return Start(x=x, levels=levels, keeps=KeptPicture(clean=clean, noise=noise, mask=mask))


def draw_rows(generators: Sequence[TorchGenerator], shape: tuple[int, ...]) -> Array:
    """Standard normal float32 of `shape`, each row from its own generator."""
    return np.concatenate([generator.randn((1, *shape[1:])) for generator in generators])


def _latents(found: Distribution, generators: Sequence[TorchGenerator], settings: TextToImageSettings) -> Array:
    """Latents as the UNet sees them, drawn for each picture where the autoencoder gives a distribution."""
    mean, deviation = found
    n = len(generators)
    latents = np.repeat(mean, n, axis=0)
    if deviation is not None:
        latents = latents + deviation * draw_rows(generators, latents.shape)
    return np.asarray((latents - np.float32(settings.shift_factor)) * np.float32(settings.scaling_factor))
