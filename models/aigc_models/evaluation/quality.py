"""Task metrics, measured through a session: the same code evaluates PyTorch and a bundle.

Text is measured by bits per byte on held-out files; digits by how often a small classifier sees the class that was
asked for, and by the Fréchet distance to real digits in its feature space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aigc_models.data.image_data import digits
from aigc_models.evaluation.metrics import (
    Logits,
    bits_per_byte,
    class_accuracy,
    classifier_features,
    frechet_distance,
    text_windows,
)
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_models.weights.checkpoint import load_checkpoint, shipped_checkpoint
from aigc_models.weights.stream_into import stream_into
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError
from aigc_runtime.pipelines.text import INPUT_IDS, KEPT, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

__all__ = [
    "DIGIT_NAMES",
    "Metric",
    "are_digits",
    "batch_rows",
    "digit_classifier",
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
DIGITS_SHAPE = (1, 16, 16)
DIGIT_NAMES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured value of a task's metric."""

    name: str
    value: float


def are_digits(sample_shape: tuple[int, int, int], num_classes: int | None) -> bool:
    """Check whether images may be the ten digits at 16x16, for which there is a classifier here."""
    return sample_shape == DIGITS_SHAPE and num_classes == 10


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


def image_quality(images: Array, labels: Array) -> tuple[Metric, ...]:
    """Measure class accuracy and Fréchet distance of digits [N, 1, 16, 16] with the requested labels [N].

    Images are measured as they are written: clipped to [-1, 1].
    """
    images = np.clip(images, -1.0, 1.0)
    classifier = digit_classifier()
    return (
        Metric(name="class_accuracy", value=class_accuracy(classifier, images, labels)),
        Metric(
            name="frechet_distance",
            value=frechet_distance(classifier_features(classifier, images), _real_features()),
        ),
    )


@lru_cache(maxsize=1)
def digit_classifier() -> Classifier:
    """Load the shipped classifier of digits.

    Raises:
        CheckpointError: it is not installed, or damaged.
    """
    found = load_checkpoint(shipped_checkpoint("classifier"))
    if "model" not in found.config:
        raise CheckpointError(f"{str(found.path)!r} is not a classifier's checkpoint")
    model = Classifier(ClassifierConfig.from_dict(found.config["model"]))
    stream_into(model, found.tensors, source="the shipped classifier")
    return model.eval()


@lru_cache(maxsize=1)
def _real_features() -> Array:
    data = digits()
    return classifier_features(digit_classifier(), data.train.numpy())
