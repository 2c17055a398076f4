"""Metrics of generators, as the field defines them; the same functions evaluate PyTorch and a bundle.

They take arrays and plain callables, so that a PyTorch module and an engine's session are scored alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from aigc_models.families.classifier import Classifier
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError

__all__ = [
    "Logits",
    "Moments",
    "bits_per_byte",
    "class_accuracy",
    "classifier_features",
    "feature_moments",
    "frechet_distance",
    "moments_distance",
    "picture_psnr",
    "score_windows",
    "text_windows",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The Gaussian that is fitted to features.

    Attributes:
        mean: [D] float64.
        covariance: [D, D] float64.
    """

    mean: Array
    covariance: Array


MAX_PSNR_DB = 200.0
"""In place of infinity, which JSON does not hold."""
Logits = Callable[[Array], Iterable[Array]]
"""[B, S] int64 ids -> float logits of all S places in order, in pieces [B, s, V]."""


def text_windows(tokens: Array, *, count: int, length: int, seed: int) -> Array:
    """Draw windows of a text, seeded.

    Args:
        tokens: [N] integer ids of the text.
        count: windows to draw, >= 1.
        length: tokens to predict in each.
        seed: of the draw.

    Returns:
        [count, length + 1] int64: inputs are `[:, :-1]`, targets `[:, 1:]`.

    Raises:
        InputError: the text is shorter than one window.
    """
    if len(tokens) < length + 1:
        raise InputError(f"the text has {len(tokens)} tokens", hint=f"a window needs {length + 1}: give more text")
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length, size=count)
    return np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64)


def bits_per_byte(logits: Logits, windows: Array, *, batch: int = 16) -> float:
    """Mean negative log2 likelihood of the windows' bytes under a byte-level model.

    Args:
        logits: see `Logits`.
        windows: [N, S + 1] int64, from `text_windows`.
        batch: rows per call.

    Returns:
        Bits per byte; 8 is chance level for 256 equally likely bytes.

    Raises:
        EngineError: the logits hold NaN.
    """
    nats, _ = score_windows(logits, windows, batch=batch)
    return _finite("bits per byte", float(nats.mean()) / math.log(2))


def score_windows(logits: Logits, windows: Array, *, batch: int = 16) -> tuple[Array, Array]:
    """Compute the negative log likelihood of every window, and the model's likeliest tokens.

    Only the logits of one piece are held at a time.

    Args:
        logits: see `Logits`.
        windows: [N, S + 1] int64, from `text_windows`.
        batch: rows per call.

    Returns:
        Mean negative log likelihood of a token in nats, [N] float64, and the likeliest tokens, [N, S] int64.
    """
    nats, likeliest = [], []
    for start in range(0, len(windows), batch):
        rows = windows[start : start + batch]
        losses, tokens, done = [], [], 1
        for piece in logits(np.ascontiguousarray(rows[:, :-1])):
            targets = rows[:, done : done + piece.shape[1], None]
            done += piece.shape[1]
            scores = np.asarray(piece, dtype=np.float64)
            peak = scores.max(axis=-1, keepdims=True)
            log_z = np.log(np.exp(scores - peak).sum(axis=-1)) + peak[..., 0]
            losses.append(log_z - np.take_along_axis(scores, targets, axis=-1)[..., 0])
            tokens.append(scores.argmax(axis=-1))
        nats.append(np.concatenate(losses, axis=1).mean(axis=1))
        likeliest.append(np.concatenate(tokens, axis=1))
    return np.concatenate(nats), np.concatenate(likeliest)


@torch.inference_mode()
def class_accuracy(classifier: Classifier, images: Array, class_labels: Array) -> float:
    """Share of images [N, C, H, W] that the classifier gives the asked class [N].

    Raises:
        InputError: not one label per image, or no images.
    """
    if len(images) != len(class_labels) or len(images) == 0:
        raise InputError(f"{len(images)} images and {len(class_labels)} labels", hint="need one label per image")
    predicted = classifier(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((predicted == class_labels).mean())


@torch.inference_mode()
def classifier_features(classifier: Classifier, images: Array) -> Array:
    """[N, C, H, W] -> [N, D] features for `frechet_distance`."""
    features: Array = classifier.features(torch.from_numpy(images)).numpy()
    return features


def frechet_distance(features_a: Array, features_b: Array) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features, see `moments_distance`.

    Args:
        features_a: [N, D].
        features_b: [M, D].

    Raises:
        InputError: fewer than two rows, or different D.
        EngineError: the features hold NaN or infinity.
    """
    if min(len(features_a), len(features_b)) < 2 or features_a.shape[1:] != features_b.shape[1:]:
        raise InputError(
            f"features of shapes {features_a.shape} and {features_b.shape}",
            hint="need at least two rows each, of equal length",
        )
    return moments_distance(feature_moments(features_a), feature_moments(features_b))


def feature_moments(features: Array) -> Moments:
    """Fit a Gaussian to features [N, D], N of at least two.

    Raises:
        EngineError: they hold NaN or infinity.
    """
    rows = features.astype(np.float64)
    mean = rows.mean(axis=0)
    _finite("the mean of the features", float(mean @ mean))
    return Moments(mean=mean, covariance=np.atleast_2d(np.cov(rows, rowvar=False)))


def moments_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance between two Gaussians (Heusel 2017, eq. 6).

    d^2 = |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)).
    """
    gap = a.mean - b.mean
    cov_a, cov_b = a.covariance, b.covariance
    # Tr (C_a C_b)^(1/2) from the eigenvalues of the symmetric S C_b S with S = C_a^(1/2): real by construction,
    # and well-behaved for the rank-deficient covariances that ReLU features give.
    root_a = _symmetric_root(cov_a)
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def picture_psnr(reference: Array, actual: Array, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio 10 log10(peak^2 / mean squared error) in dB, all channels and pixels together.

    >>> round(picture_psnr(np.array([0.0, 1.0]), np.array([0.1, 1.0])), 3)
    23.01

    Args:
        reference: pictures.
        actual: as many of the same shape.
        peak: white minus black.

    Returns:
        `MAX_PSNR_DB` for equal pictures.

    Raises:
        InputError: other shapes, which would be broadcast.
        EngineError: NaN or infinity.
    """
    if reference.shape != actual.shape:
        raise InputError(f"pictures of shapes {list(reference.shape)} and {list(actual.shape)}", hint="must be equal")
    error = _finite("the error", float(np.mean((reference.astype(np.float64) - actual.astype(np.float64)) ** 2)))
    return MAX_PSNR_DB if error == 0 else min(MAX_PSNR_DB, 10 * math.log10(peak**2 / error))


def _finite(what: str, value: float) -> float:
    # A NaN would pass every "is it worse than the limit?" that comes after.
    if not math.isfinite(value):
        raise EngineError(f"{what} came out as {value}", hint="the model's outputs hold NaN or infinity")
    return value


def _symmetric_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
