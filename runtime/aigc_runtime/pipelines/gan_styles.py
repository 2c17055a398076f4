"""Arithmetic of latents and styles: paths between them, mixing, truncation.

Shapes: N images, Z latent size, S size of w, L layers, K points of a path, T frames.

References:
    White 2016, "Sampling Generative Networks" (arXiv:1609.04468), section 2.1: spherical interpolation.
    Karras et al. 2019, "A Style-Based Generator Architecture for GANs" (arXiv:1812.04948): section 3.1 (mixing),
    section 4.1 and appendix B (truncation).
"""

from __future__ import annotations

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError
from aigc_runtime.io.npy import read_npy

__all__ = ["linear_path", "mixed_styles", "read_mean", "repeated_styles", "spherical_path", "truncated_styles"]

PARALLEL = 1e-6
"""Sine of an angle below which two latents point the same way, or opposite ways, and a straight line is taken."""


def repeated_styles(w: Array, layers: int) -> Array:
    """One w for every layer: [N, S] -> [N, L, S]; styles of every layer, [N, L, S], stay."""
    return w if w.ndim == 3 else np.repeat(w[:, None], layers, axis=1)


def mixed_styles(ws: Array, other: Array, first: int) -> Array:
    """Styles [N, L, S] whose layers from `first` on are those of other styles."""
    return np.concatenate([ws[:, :first], other[:, first:]], axis=1)


def truncated_styles(ws: Array, mean: Array, psi: float, cutoff: int | None = None) -> Array:
    """Move styles towards their mean: w' = mean + psi (w - mean).

    Args:
        ws: [N, L, S] float32.
        mean: [S].
        psi: 1 changes nothing, 0 gives the mean.
        cutoff: layers before it are moved; None moves all.

    >>> truncated_styles(np.full((1, 3, 1), 4, np.float32), np.full(1, 2, np.float32), 0.5, 2).ravel()
    array([3., 3., 4.], dtype=float32)
    """
    if psi == 1:
        return ws
    moved: Array = mean + np.float32(psi) * (ws - mean)
    return moved if cutoff is None else mixed_styles(moved, ws, cutoff)


def linear_path(points: Array, frames: int) -> Array:
    """Frames at equal steps on the straight lines between points, both ends included: [K, S] -> [T, S]."""
    start, end, t = _legs(points, frames)
    path: Array = (start + t * (end - start)).astype(np.float32)
    return path


def spherical_path(points: Array, frames: int) -> Array:
    """Frames at equal steps on the great circles between points, both ends included: [K, Z] -> [T, Z].

    A straight line between two draws of many normal numbers passes through latents that are shorter than any that is
    drawn; the circle keeps their length: (sin((1 - t) a) z_0 + sin(t a) z_1) / sin(a), a the angle between them.
    """
    start, end, t = _legs(points, frames)
    lengths = np.linalg.norm(start, axis=1, keepdims=True) * np.linalg.norm(end, axis=1, keepdims=True)
    cosine = (start * end).sum(axis=1, keepdims=True) / np.maximum(lengths, np.finfo(np.float64).tiny)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    straight = sine < PARALLEL
    sine = np.where(straight, 1, sine)
    first = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    second = np.where(straight, t, np.sin(t * angle) / sine)
    path: Array = (first * start + second * end).astype(np.float32)
    return path


def _legs(points: Array, frames: int) -> tuple[Array, Array, Array]:
    """Of every frame the points before and behind it, float64, and how far it is between them: [T, 1] in [0, 1]."""
    place = np.linspace(0, len(points) - 1, frames)
    leg = np.minimum(place.astype(np.int64), len(points) - 2)
    exact = points.astype(np.float64)
    return exact[leg], exact[leg + 1], (place - leg)[:, None]


def read_mean(data: bytes, size: int, *, what: str) -> Array:
    """Read the mean w of a bundle's file.

    Raises:
        BundleError: it is damaged, of another size or type, or not finite.
    """
    mean = read_npy(data, what=what, dtypes=("float32",))
    if mean.shape != (size,) or not np.isfinite(mean).all():
        raise BundleError(
            f"{what} has shape {list(mean.shape)}, expected {size} finite numbers", hint="export the model again"
        )
    return mean
