"""Latents of a GAN: standard normal draws, of which those that lie far out may be drawn again.

Shapes: N images, Z latent size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.noise import PiecewiseNormal
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_number, chunks

__all__ = ["LATENT_ROWS", "check_limit", "draw_latents", "latent_pieces"]

LATENT_ROWS = 1024
"""Images whose latents are drawn together."""


def check_limit(truncation: float | None) -> float | None:
    """The largest magnitude of a latent; None for no limit.

    Raises:
        InputError: it is not positive and finite.
    """
    if truncation is None:
        return None
    # No float32 normal number comes near 100, and beyond float32's range the comparison with it would overflow.
    limit = min(check_number("truncation", truncation, 0.0), 100.0)
    if limit < float(np.finfo(np.float32).tiny):
        raise InputError(f"truncation is {shown(truncation)}", hint="must be a positive number; 1 to 2 is usual")
    return limit


def latent_pieces(count: int, size: int, seed: int, limit: float | None) -> Iterator[tuple[int, Array]]:
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
    drawn = latent_pieces(*shape, check_seed(seed), check_limit(truncation))
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
