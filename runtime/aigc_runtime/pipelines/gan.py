"""Image generation by a GAN's generator: one run, no loop.

Shapes: N images, Z latent size, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.noise import PiecewiseNormal
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import batch_bounds, check_labels, check_number, chunks, require_tensors
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.limits import check_image_count, check_numbers, rows_at_once
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["CLASS_LABELS", "IMAGE", "LATENTS", "GanPipeline", "draw_latents"]

LATENTS = "latents"
CLASS_LABELS = "class_labels"
IMAGE = "image"
"""The tensors of a generator."""

LATENT_ROWS = 1024
"""Images whose latents are drawn together."""


class GanPipeline:
    """Generates images with a class-conditional generator.

    Args:
        program: one engine, or the session of it, with the inputs `latents` [N, Z] and `class_labels` [N], output
            `image` [N, C, H, W].
        settings: latent size and classes.
        roles: which engine is the `model`.

    Raises:
        ConfigError: other roles, or the engine has other inputs or outputs, or other sizes.
    """

    def __init__(self, program: OpenProgram | Session, settings: GanSettings, roles: Roles = SINGLE_ENGINE) -> None:
        require_roles("gan", roles, (MAIN_ENGINE,))
        self.program = as_program(program)
        session = self.session = self.program.session(roles[MAIN_ENGINE])
        require_tensors(
            session,
            inputs={LATENTS: ("float32", (None, settings.latent_size)), CLASS_LABELS: ("int64", (None,))},
            outputs={IMAGE: ("float32", (None, *settings.sample_shape))},
        )
        self._bounds = batch_bounds(session, LATENTS)
        self.settings = settings

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> GanPipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
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
            InputError: a bad label, seed or truncation, or a result that is too large.
            EngineError: the engine failed, or gave NaN.
        """
        labels = self._labels(class_labels)
        whole = (len(labels), *self.settings.sample_shape)
        check_numbers(
            "the result", whole, hint="stream() gives the images one by one, and `-o FILE.npy` writes them so"
        )
        result: Array = np.empty(whole, dtype=np.float32)
        for rows, images in self._groups(labels, check_seed(seed), _check_truncation(truncation)):
            result[rows] = images
        return result

    def stream(self, class_labels: Sequence[int], *, seed: int = 0, truncation: float | None = None) -> Iterator[Array]:
        """Draw images, of which only a few are in memory at once; arguments and errors as in `generate`.

        Yields:
            [C, H, W] float32: the very images of `generate`, in their order.
        """
        groups = self._groups(self._labels(class_labels), check_seed(seed), _check_truncation(truncation))
        return (image for _, images in groups for image in images)

    def _labels(self, class_labels: Sequence[int]) -> Array:
        labels = check_labels(class_labels, self.settings.num_classes)
        check_image_count(len(labels))
        return labels

    def _groups(self, labels: Array, seed: int, limit: float | None) -> Iterator[tuple[slice, Array]]:
        """Images in groups that the engine takes at once, each with its rows."""
        settings = self.settings
        rows_each = rows_at_once(max(settings.latent_size, math.prod(settings.sample_shape)), *self._bounds)
        for first, latents in _latents(len(labels), settings.latent_size, seed, limit):
            for part in chunks(len(latents), rows_each):
                rows = slice(first + part.start, first + part.stop)
                feeds = {LATENTS: np.ascontiguousarray(latents[part]), CLASS_LABELS: labels[rows]}
                images = self.session.run(feeds)[IMAGE]
                if not np.isfinite(images).all():
                    raise EngineError("the model gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
                yield rows, images


def _check_truncation(truncation: float | None) -> float | None:
    if truncation is None:
        return None
    # No float32 normal number comes near 100, and beyond float32's range the comparison with it would overflow.
    limit = min(check_number("truncation", truncation, 0.0), 100.0)
    if limit < float(np.finfo(np.float32).tiny):
        raise InputError(f"truncation is {shown(truncation)}", hint="must be a positive number; 1 to 2 is usual")
    return limit


def _latents(count: int, size: int, seed: int, limit: float | None) -> Iterator[tuple[int, Array]]:
    """Latents of `count` images in pieces of `LATENT_ROWS`, each with its first row.

    A piece is drawn, and then what lies outside the limit drawn again: so the pieces do not depend on the engine, and
    without a limit they are `randn(count, size)`.
    """
    generator = TorchGenerator(seed)
    whole = None if limit is not None else PiecewiseNormal(generator, count * size)
    for rows in chunks(count, LATENT_ROWS):
        shape = (rows.stop - rows.start, size)
        if whole is not None:
            yield rows.start, whole.take(math.prod(shape)).reshape(shape)
            continue
        latents = generator.randn(shape)
        assert limit is not None
        outside = np.abs(latents) > limit
        latents[outside] = _truncated_normal(generator, int(outside.sum()), limit)
        yield rows.start, latents


def draw_latents(shape: tuple[int, int], *, seed: int, truncation: float | None) -> Array:
    """Standard normal float32 latents [N, Z], truncated by drawing again what lies outside.

    Raises:
        InputError: a bad seed, or a truncation that is not positive and finite.
    """
    drawn = _latents(*shape, check_seed(seed), _check_truncation(truncation))
    return np.concatenate([np.empty((0, shape[1]), dtype=np.float32), *(latents for _, latents in drawn)])


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
