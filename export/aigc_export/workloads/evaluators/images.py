"""Evaluate generators of images: the same noise through the whole loop of both sides, and step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from aigc_export.workloads.measures import CLASS_ACCURACY, FRECHET_DISTANCE, PSNR
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_models.evaluation.quality import image_quality
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["image_evaluator", "image_psnr"]

_TASK = {measure.name: measure for measure in (CLASS_ACCURACY, FRECHET_DISTANCE)}


def image_evaluator(
    reference: OpenProgram,
    draw: Callable[[OpenProgram], Array],
    evaluation: Evaluation,
    *,
    labels: Sequence[int] | None,
    besides: Callable[[OpenProgram], PairedMetric] | None = None,
) -> ProgramEvaluator:
    """Make the evaluator of a model of images.

    Args:
        reference: PyTorch's sessions.
        draw: runs the pipeline on one request, the same for both sides: images [N, C, H, W].
        evaluation: says whether the task's metrics are known for the model's data.
        labels: the requested class of every image; None for a model without classes.
        besides: measures a candidate beyond its images.
    """
    images = draw(reference)
    classes = np.asarray(() if labels is None else labels, dtype=np.int64)
    measured = image_quality(images, classes, data=evaluation.data) if evaluation.has_task_metric else ()

    def evaluate(candidate: OpenProgram) -> Scores:
        drawn = draw(candidate)
        paired = [image_psnr(images, drawn)]
        if besides is not None:
            paired.append(besides(candidate))
        quality: list[QualityResult] = []
        if measured:
            both = zip(measured, image_quality(drawn, classes, data=evaluation.data), strict=True)
            quality = [_TASK[a.name].of_both(a.value, b.value, data=evaluation.data) for a, b in both]
        return Scores(paired=tuple(paired), quality=tuple(quality))

    return evaluate


def image_psnr(reference: Array, actual: Array, *, data: str = "") -> PairedMetric:
    """Compute the PSNR of the mean squared error, and its standard error by the delta method over images.

    Args:
        reference: two images or more, along the first axis.
        actual: likewise.
        data: what they were made from; empty where that has no name.
    """
    errors = ((reference.astype(np.float64) - actual) ** 2).reshape(len(reference), -1).mean(axis=1)
    mean = float(errors.mean())
    spread = float(errors.std(ddof=1)) / math.sqrt(len(errors))
    return PSNR.paired(
        psnr_db(reference, actual),
        standard_error=0.0 if mean == 0 else 10 / math.log(10) * spread / mean,
        samples=len(errors),
        data=data,
    )
