"""What the workloads of images share: what they are evaluated on, and how they are shown."""

from __future__ import annotations

from functools import partial
from typing import Any

from aigc_export.workloads.base import EvaluationFacts
from aigc_models.evaluation.evaluation import Evaluation, image_evaluation
from aigc_models.evaluation.known_pictures import KNOWN_PICTURES
from aigc_models.evaluation.showcase import image_showcase

__all__ = ["image_evaluation_of", "show_images"]

SHOWN_SEED = 1


def image_evaluation_of(settings: Any, facts: EvaluationFacts) -> Evaluation:
    """Choose what a model of images is evaluated on; of a bundle alone, what its export's own metric says."""
    if facts.measured_on and facts.eval_data is None:
        known = KNOWN_PICTURES.get(facts.measured_on)
        fits = known is not None and known.sample_shape == settings.sample_shape
        return Evaluation(data=facts.measured_on, has_task_metric=fits)
    return image_evaluation(
        settings.sample_shape,
        kept=facts.kept,
        class_names=facts.class_names,
        eval_data=facts.eval_data,
    )


def show_images(pipeline: Any) -> tuple[str, bytes]:
    """Draw a grid of images; a `Workload.showcase`."""
    return ".png", image_showcase(partial(pipeline.generate, seed=SHOWN_SEED), pipeline.settings.num_classes)
