"""Pictures that a shipped classifier knows, by which generated ones are measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aigc_models.data.image_data import digits
from aigc_models.evaluation.metrics import Moments, classifier_features, feature_moments
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_models.weights.checkpoint import load_checkpoint, shipped_checkpoint
from aigc_models.weights.stream_into import stream_into
from aigc_runtime.errors import CheckpointError

__all__ = [
    "DIGITS",
    "EMOJI",
    "FASHION",
    "KNOWN_PICTURES",
    "REAL_FEATURES",
    "KnownPictures",
    "known_pictures",
    "load_classifier",
]

DIGITS = "scikit-learn's digits"
EMOJI = "Noto's emoji"
FASHION = "Fashion-MNIST"
REAL_FEATURES = "real_features.json"
"""In a classifier's folder: `mean` [D] and `covariance` [D, D] of its features of the pictures that it learned from."""


@dataclass(frozen=True, kw_only=True)
class KnownPictures:
    """Pictures for which a classifier is shipped.

    Attributes:
        classifier: the name of its checkpoint.
        sample_shape: (C, H, W) of the pictures.
        class_names: of the classifier's outputs, in their order.
        moments: (the classifier, the name of its checkpoint) -> the moments of its features of real pictures.
    """

    classifier: str
    sample_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    moments: Callable[[Classifier, str], Moments]


def _digit_moments(classifier: Classifier, _checkpoint: str) -> Moments:
    return feature_moments(classifier_features(classifier, digits().train.numpy()))


def _kept_moments(_classifier: Classifier, checkpoint: str) -> Moments:
    path = shipped_checkpoint(checkpoint) / REAL_FEATURES
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Moments(mean=np.array(held["mean"]), covariance=np.array(held["covariance"]))
    except (OSError, ValueError, KeyError) as err:
        raise CheckpointError(
            f"{str(path)!r} cannot be read: {type(err).__name__}: {err}", hint="install the package again"
        ) from err


KNOWN_PICTURES: dict[str, KnownPictures] = {
    DIGITS: KnownPictures(
        classifier="classifier",
        sample_shape=(1, 16, 16),
        class_names=tuple("0123456789"),
        moments=_digit_moments,
    ),
    EMOJI: KnownPictures(
        classifier="emoji_classifier",
        sample_shape=(3, 32, 32),
        class_names=("animals-nature", "flags", "food-drink", "people-body", "smileys-emotion", "travel-places"),
        moments=_kept_moments,
    ),
    FASHION: KnownPictures(
        classifier="fashion_classifier",
        sample_shape=(1, 32, 32),
        class_names=(
            "bag",
            "boot",
            "coat",
            "dress",
            "pullover",
            "sandal",
            "shirt",
            "sneaker",
            "t-shirt",
            "trouser",
        ),
        moments=_kept_moments,
    ),
}
"""Name of the data, in tables and manifests -> what its pictures are measured by."""


def known_pictures(sample_shape: tuple[int, int, int], class_names: object) -> str:
    """Give the name of the data of a model of such pictures and classes; empty where no shipped classifier knows them.

    Args:
        sample_shape: (C, H, W) of the pictures.
        class_names: as config.json has them.
    """
    fits = (
        name
        for name, known in KNOWN_PICTURES.items()
        if known.sample_shape == sample_shape and class_names == [*known.class_names]
    )
    return next(fits, "")


@lru_cache(maxsize=len(KNOWN_PICTURES))
def load_classifier(data: str) -> tuple[Classifier, Moments]:
    """Load the shipped classifier of some pictures, and the moments of its features of real ones.

    Args:
        data: a key of `KNOWN_PICTURES`.

    Raises:
        CheckpointError: it is not installed, or damaged.
    """
    known = KNOWN_PICTURES[data]
    found = load_checkpoint(shipped_checkpoint(known.classifier))
    if "model" not in found.config:
        raise CheckpointError(f"{str(found.path)!r} is not a classifier's checkpoint")
    model = Classifier(ClassifierConfig.from_dict(found.config["model"]))
    stream_into(model, found.tensors, source="the shipped classifier")
    model.eval()
    return model, known.moments(model, known.classifier)
