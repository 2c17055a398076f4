"""Task metrics, measured through a session: the same code evaluates PyTorch and a bundle.

Text is measured by bits per byte on held-out files; pictures by how often a small classifier sees the class that was
asked for, and by the Fréchet distance to real ones in its feature space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aigc_models.evaluation.known_pictures import DIGITS, KNOWN_PICTURES, load_classifier
from aigc_models.evaluation.metrics import (
    Logits,
    bits_per_byte,
    class_accuracy,
    classifier_features,
    feature_moments,
    moments_distance,
    text_windows,
)
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.text import INPUT_IDS, KEPT, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

__all__ = [
    "Metric",
    "are_digits",
    "batch_rows",
    "image_quality",
    "session_logits",
    "text_quality",
]

WINDOW = 256
SEQUENCE = "sequence"
MAX_LOGITS = 2**23
"""Logits that are held at a time: 32 MiB, and their copies in float64."""
MAX_ROWS = 16
"""Windows that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured value of a task's metric."""

    name: str
    value: float


def are_digits(sample_shape: tuple[int, int, int], num_classes: int | None) -> bool:
    """Check whether images may be the ten digits at 16x16, for which there is a classifier here."""
    known = KNOWN_PICTURES[DIGITS]
    return (sample_shape, num_classes) == (known.sample_shape, len(known.class_names))


def session_logits(session: Session) -> Logits:
    """Make a function of token ids from a language model's session, which gives the logits of every place.

    A window is read in pieces, each behind the cache of those before it, which is what a model computes of the window
    as a whole. A piece has as few places as make at most `MAX_LOGITS` numbers, or one: so what is held at a time
    depends on neither the window's length nor, beyond one place of each row, the vocabulary.
    """

    def logits(ids: Array) -> Iterator[Array]:
        state, pads = session.new_state(len(ids)), np.zeros(len(ids), dtype=np.int64)
        most = _places(session, len(ids))
        for start in range(0, ids.shape[1], most):
            piece = np.ascontiguousarray(ids[:, start : start + most])
            keep = np.arange(piece.shape[1], dtype=np.int64)
            yield session.run({INPUT_IDS: piece, PAD_LENGTH: pads, LOGITS_TO_KEEP: keep}, state)[LOGITS]

    return logits


def batch_rows(session: Session, length: int) -> int:
    """Choose how many windows are read at a time: so many that few pieces make a window of that length."""
    return max(1, min(MAX_ROWS, MAX_LOGITS // (length * _width(session))))


def _width(session: Session) -> int:
    return next(int(tensor.shape[-1]) for tensor in session.interface.outputs if tensor.name == LOGITS)


def _places(session: Session, rows: int) -> int:
    """Count the places of a row whose logits are computed at a time."""
    interface = session.interface
    bounds = [dim.max for name in (SEQUENCE, KEPT) if (dim := interface.dim(name)) is not None and dim.max is not None]
    return max(1, min((MAX_LOGITS // (rows * _width(session)), *bounds)))


def text_quality(session: Session, held_out: Array, *, samples: int, seed: int) -> tuple[Metric, ...]:
    """Measure bits per byte on windows of a held-out text, as long as the model takes but at most `WINDOW`."""
    longest = session.interface.dims_by_name[SEQUENCE].max
    length = WINDOW if longest is None else min(WINDOW, longest)
    windows = text_windows(held_out, count=samples, length=length, seed=seed)
    return (Metric(name="bits_per_byte", value=bits_per_byte(session_logits(session), windows)),)


def image_quality(images: Array, labels: Array, *, data: str = DIGITS) -> tuple[Metric, ...]:
    """Measure class accuracy and Fréchet distance of images [N, C, H, W] with the requested labels [N].

    Images are measured as they are written: clipped to [-1, 1].

    Args:
        images: two or more.
        labels: one for each.
        data: what they are pictures of, a key of `KNOWN_PICTURES`.

    Raises:
        InputError: fewer than two images, or not one label for each.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} images", hint="a Fréchet distance needs at least two")
    images = np.clip(images, -1.0, 1.0)
    classifier, real = load_classifier(data)
    features = feature_moments(classifier_features(classifier, images))
    return (
        Metric(name="class_accuracy", value=class_accuracy(classifier, images, labels)),
        Metric(name="frechet_distance", value=moments_distance(features, real)),
    )
