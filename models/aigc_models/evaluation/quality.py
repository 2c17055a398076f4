"""Task metrics, measured through a session: the same code evaluates PyTorch and a bundle.

Text is measured by bits per byte on held-out files; digits by how often a small classifier sees the class that was
asked for, and by the Fréchet distance to real digits in its feature space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aigc_models.data.image_data import digits
from aigc_models.evaluation.metrics import (
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
from aigc_runtime.pipelines.text import INPUT_IDS, LOGITS, PAD_LENGTH

__all__ = [
    "DIGIT_NAMES",
    "Metric",
    "are_digits",
    "digit_classifier",
    "image_quality",
    "session_logits",
    "text_quality",
]

WINDOW = 256
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


def session_logits(session: Session) -> Callable[[Array], Array]:
    """Make a function of token ids, [B, S] int64 -> logits [B, S, V], from a language model's session."""

    def logits(ids: Array) -> Array:
        feeds = {INPUT_IDS: ids, PAD_LENGTH: np.zeros(len(ids), dtype=np.int64)}
        return session.run(feeds, session.new_state(len(ids)))[LOGITS]

    return logits


def text_quality(session: Session, held_out: Array, *, samples: int, seed: int) -> tuple[Metric, ...]:
    """Measure bits per byte on windows of a held-out text, as long as the model takes but at most `WINDOW`."""
    longest = session.interface.dims_by_name["sequence"].max
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
