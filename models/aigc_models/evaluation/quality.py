"""Task metrics, measured through a session: the same code evaluates PyTorch and a bundle.

Text is measured by bits per byte on held-out files; digits by how often a small classifier sees the class that was
asked for, and by the Fréchet distance to real digits in its feature space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aigc_models.data.image_data import digits
from aigc_models.data.text_data import standard_library_text
from aigc_models.evaluation.metrics import (
    bits_per_byte,
    class_accuracy,
    classifier_features,
    frechet_distance,
    text_windows,
)
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_models.weights.checkpoint import load_checkpoint, load_into, shipped_checkpoint
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, Pipeline, TextSettings

__all__ = [
    "DIGIT_NAMES",
    "HIGHER_IS_BETTER",
    "Metric",
    "can_measure",
    "digit_classifier",
    "image_quality",
    "measure",
    "text_quality",
]

HIGHER_IS_BETTER = {"bits_per_byte": False, "class_accuracy": True, "frechet_distance": False}
"""metric -> direction."""

WINDOW = 256
DIGITS_SHAPE = (1, 16, 16)
DIGIT_NAMES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured value; `name` is a key of `HIGHER_IS_BETTER`."""

    name: str
    value: float


def can_measure(settings: Pipeline) -> bool:
    """Check whether a model has a metric here: byte-level text, or the ten digits at 16x16."""
    if isinstance(settings, TextSettings):
        return settings.tokenizer.kind == "bytes"
    return settings.sample_shape == DIGITS_SHAPE and settings.num_classes == 10


def measure(session: Session, settings: Pipeline, *, samples: int, seed: int = 0) -> tuple[Metric, ...]:
    """Measure a model's quality through a session.

    Args:
        session: PyTorch's, or an engine's.
        settings: of its pipeline.
        samples: windows of text, or images.
        seed: of windows or noise; the same seed compares like with like.

    Returns:
        The model's metrics; none where `can_measure` says no, or for no samples.
    """
    if samples == 0 or not can_measure(settings):
        return ()
    if isinstance(settings, TextSettings):
        return text_quality(session, standard_library_text().held_out, samples=samples, seed=seed)
    labels = np.arange(samples) % 10
    return image_quality(_draw(session, settings, labels.tolist(), seed), labels)


def _draw(session: Session, settings: DiffusionSettings | GanSettings, labels: list[int], seed: int) -> Array:
    if isinstance(settings, DiffusionSettings):
        return DiffusionPipeline(session, settings).generate(labels, seed=seed)
    return GanPipeline(session, settings).generate(labels, seed=seed)


def text_quality(session: Session, held_out: Array, *, samples: int, seed: int) -> tuple[Metric, ...]:
    """Measure bits per byte on windows of a held-out text, as long as the model takes but at most `WINDOW`."""

    def logits(ids: Array) -> Array:
        feeds = {"input_ids": ids, "pad_length": np.zeros(len(ids), dtype=np.int64)}
        return session.run(feeds, session.new_state(len(ids)))["logits"]

    longest = session.interface.dims_by_name["sequence"].max
    length = WINDOW if longest is None else min(WINDOW, longest)
    windows = text_windows(held_out, count=samples, length=length, seed=seed)
    return (Metric(name="bits_per_byte", value=bits_per_byte(logits, windows)),)


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
    load_into(model, found.tensors, source="the shipped classifier")
    return model.eval()


@lru_cache(maxsize=1)
def _real_features() -> Array:
    data = digits()
    return classifier_features(digit_classifier(), data.train.numpy())
