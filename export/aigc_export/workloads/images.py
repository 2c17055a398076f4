"""What the workloads of images share: what they are evaluated on, and a picture of what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aigc_export.workloads.base import EvaluationFacts
from aigc_models.evaluation.evaluation import Evaluation, image_evaluation
from aigc_models.evaluation.quality import are_digits
from aigc_runtime.core.tensors import Array
from aigc_runtime.io.png import encode_png, image_grid

__all__ = ["SHOWN_SEED", "image_evaluation_of", "picture"]

SHOWN_SEED = 1
SHOWN_CLASSES, SHOWN_EACH = 10, 4
SHOWN_WIDTH = 64
"""Pixels that an image has in a picture, at least."""


def image_evaluation_of(settings: Any, facts: EvaluationFacts) -> Evaluation:
    """Choose what a model of images is evaluated on; of a bundle alone, what its export's own metric says."""
    if facts.measured_on and facts.quality_data is None:
        return Evaluation(
            data=facts.measured_on, has_task_metric=are_digits(settings.sample_shape, settings.num_classes)
        )
    return image_evaluation(
        settings.sample_shape,
        settings.num_classes,
        kept=facts.kept,
        class_names=facts.class_names,
        quality_data=facts.quality_data,
    )


def picture(generate: Callable[..., Array], num_classes: int | None) -> tuple[str, bytes]:
    """Draw a grid with a column for each of the first classes, as a PNG."""
    columns = SHOWN_EACH if num_classes in {None, 1} else min(num_classes or 1, SHOWN_CLASSES)
    labels = [column % (num_classes or 1) for _ in range(SHOWN_EACH) for column in range(columns)]
    images = generate(batch=len(labels)) if num_classes is None else generate(labels)
    scale = max(1, SHOWN_WIDTH // images.shape[-1])
    return ".png", encode_png(image_grid(images, columns=columns, scale=scale))
