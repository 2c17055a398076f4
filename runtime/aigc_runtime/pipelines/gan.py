"""Image generation by a GAN's generator: one run, no loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.manifest import GanSettings
from aigc_runtime.pipelines.labels import check_labels, chunks
from aigc_runtime.rng import TorchGenerator
from aigc_runtime.session import Session
from aigc_runtime.tensors import Array

__all__ = ["GanPipeline", "draw_latents"]

_MAX_ROUNDS = 64
_MIN_TRUNCATION = 0.05


class GanPipeline:
    """Generates images with a class-conditional generator.

    Args:
        session: inputs `latents` [N, Z] and `class_labels` [N], output `image` [N, C, H, W].
        settings: latent size and classes.
    """

    def __init__(self, session: Session, settings: GanSettings) -> None:
        self.session = session
        self.settings = settings

    def generate(self, class_labels: Sequence[int], *, seed: int = 0, truncation: float | None = None) -> Array:
        """Draw images.

        Args:
            class_labels: one per image.
            seed: of the latents: the noise of `torch.randn(N, Z, generator=...)` with the same seed.
            truncation: latents beyond this magnitude are drawn again: less variety, more fidelity (Brock et al. 2019,
                section 3.1); None draws freely.

        Returns:
            [N, C, H, W] float32 in [-1, 1].

        Raises:
            InputError: a bad label, seed or truncation.
            EngineError: the engine failed, or gave NaN.
        """
        labels = check_labels(class_labels, self.settings.num_classes)
        latents = draw_latents((len(labels), self.settings.latent_size), seed=seed, truncation=truncation)
        dim = self.session.dims.get("batch")
        most = 1 if dim is None else dim.max
        images = [
            self.session.run({"latents": latents[rows], "class_labels": labels[rows]})["image"]
            for rows in chunks(len(labels), most)
        ]
        image: Array = images[0] if len(images) == 1 else np.concatenate(images)
        if not np.isfinite(image).all():
            raise EngineError("the engine gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
        return image


def draw_latents(shape: tuple[int, int], *, seed: int, truncation: float | None) -> Array:
    """Standard normal float32 latents, truncated by drawing again what lies outside.

    Raises:
        InputError: a bad seed, or a truncation below 0.05, where hardly any draw would be kept.
    """
    generator = TorchGenerator(seed)
    latents = generator.randn(shape)
    if truncation is None:
        return latents
    if isinstance(truncation, bool) or not math.isfinite(truncation) or truncation < _MIN_TRUNCATION:
        raise InputError(f"truncation is {truncation!r}", hint=f"must be a number of at least {_MIN_TRUNCATION}")
    for _ in range(_MAX_ROUNDS):
        outside = np.abs(latents) > truncation
        count = int(outside.sum())
        if count == 0:
            return latents
        # Enough candidates that a round nearly always suffices, whatever the threshold: P(|z| <= t) is erf(t / sqrt 2).
        needed = math.ceil(count / math.erf(truncation / math.sqrt(2)) * 1.2) + 16
        candidates = generator.randn((needed,))
        kept = candidates[np.abs(candidates) <= truncation][:count]
        places = np.flatnonzero(outside)[: len(kept)]
        latents.reshape(-1)[places] = kept
    raise EngineError(f"no {shape} latents within {truncation} after {_MAX_ROUNDS} rounds", hint="use another seed")
