"""Image generation by a GAN's generator: one run, no loop.

Shapes: N images, Z latent size, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.manifest import GanSettings
from aigc_runtime.pipelines.labels import batch_limit, check_labels, check_number, chunks, require_tensors
from aigc_runtime.rng import TorchGenerator
from aigc_runtime.session import Session
from aigc_runtime.tensors import Array

__all__ = ["GanPipeline", "draw_latents"]


class GanPipeline:
    """Generates images with a class-conditional generator.

    Args:
        session: inputs `latents` [N, Z] and `class_labels` [N], output `image` [N, C, H, W].
        settings: latent size and classes.

    Raises:
        ConfigError: the session has other inputs or outputs, or other sizes.
    """

    def __init__(self, session: Session, settings: GanSettings) -> None:
        require_tensors(
            session,
            inputs={"latents": (None, settings.latent_size), "class_labels": (None,)},
            outputs={"image": (None, *settings.sample_shape)},
        )
        self.session = session
        self.settings = settings

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> GanPipeline:
        """The pipeline, its session closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

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
        images = [
            self.session.run({"latents": latents[rows], "class_labels": labels[rows]})["image"]
            for rows in chunks(len(labels), batch_limit(self.session, "latents"))
        ]
        image: Array = images[0] if len(images) == 1 else np.concatenate(images)
        if not np.isfinite(image).all():
            raise EngineError("the engine gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
        return image


def draw_latents(shape: tuple[int, int], *, seed: int, truncation: float | None) -> Array:
    """Standard normal float32 latents, truncated by drawing again what lies outside.

    Raises:
        InputError: a bad seed, or a truncation that is not positive and finite.
    """
    generator = TorchGenerator(seed)
    if truncation is None:
        return generator.randn(shape)
    # No float32 normal number comes near 100, and beyond float32's range the comparison below would overflow.
    limit = min(check_number("truncation", truncation, 0.0), 100.0)
    if limit < float(np.finfo(np.float32).tiny):
        raise InputError(f"truncation is {truncation!r}", hint="must be a positive number; 1 to 2 is usual")
    latents = generator.randn(shape)
    outside = np.abs(latents) > limit
    latents[outside] = _truncated_normal(generator, int(outside.sum()), limit)
    return latents


def _truncated_normal(generator: TorchGenerator, count: int, limit: float) -> Array:
    """`count` draws of a standard normal number within [-limit, limit], exact, by rejection: float32 [count].

    A round keeps at least 68 % of what it draws, whatever the limit: from 1 on normal numbers that lie inside; below
    1, where hardly any would, uniform ones inside, kept with the probability exp(-z^2 / 2) of the normal density
    relative to its peak.
    """
    kept = np.empty(0, dtype=np.float32)
    while len(kept) < count:
        missing = (count - len(kept),)
        if limit >= 1:
            z = generator.randn(missing)
            keep = np.abs(z) <= limit
        else:
            z = np.float32(limit) * (2 * generator.rand(missing) - 1)
            keep = generator.rand(missing) < np.exp(-(z**2) / 2)
        kept = np.concatenate([kept, z[keep]])
    return kept
