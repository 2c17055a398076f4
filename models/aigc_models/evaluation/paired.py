"""Evaluate engines against one reference, sample by sample; the reference's side is computed once.

Text: the same windows of the evaluation's text, each with its likelihood under both. Images: the same noise through the
whole sampling loop of both; for diffusion also the reference's own trajectory, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_models.evaluation.evaluation import Evaluation, text_tokens
from aigc_models.evaluation.metrics import score_windows, text_windows
from aigc_models.evaluation.quality import HIGHER_IS_BETTER, WINDOW, Metric, image_quality
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.core.compare import compare_arrays, psnr_db
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session, State
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.embeddings import CONTEXT_TOKENS
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, Pipeline, TextSettings
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["Evaluator", "Scores", "make_evaluator"]

TRAJECTORY_ROWS = 8
"""Images whose trajectory is compared step by step."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The measured quality of a candidate.

    Attributes:
        paired: sample by sample.
        quality: the task's metrics of both sides; none where a model has no metric here.
    """

    paired: tuple[PairedMetric, ...] = ()
    quality: tuple[QualityResult, ...] = ()


Evaluator = Callable[[Session], Scores]


def make_evaluator(
    reference: Session, settings: Pipeline, *, evaluation: Evaluation, samples: int, seed: int = 0
) -> Evaluator:
    """Make a function that evaluates sessions against `reference`.

    Args:
        reference: PyTorch's.
        settings: of the pipeline.
        evaluation: what to evaluate on (`program_evaluation`): to the settings alone, ten classes of something else
            look like digits.
        samples: windows of text, or images; 0 evaluates nothing.
        seed: of windows or noise.

    Raises:
        ConfigError: one sample, which has no standard error.
    """
    if samples == 1 or samples < 0:
        raise ConfigError(f"samples is {samples}", hint="at least 2 make a measure; 0 leaves it out")
    if samples == 0:
        return lambda candidate: Scores()
    if isinstance(settings, TextSettings):
        return _text_evaluator(reference, settings, evaluation, samples, seed)
    return _image_evaluator(reference, settings, evaluation, samples, seed)


def _text_evaluator(
    reference: Session, settings: TextSettings, evaluation: Evaluation, samples: int, seed: int
) -> Evaluator:
    tokens = text_tokens(settings, evaluation.text)
    longest = reference.interface.dims_by_name["sequence"].max
    length = min(WINDOW, settings.context_length, longest or WINDOW)
    windows = text_windows(tokens, count=samples, length=length, seed=seed)
    nats, likeliest = score_windows(_logits(reference), windows)

    def evaluate(candidate: Session) -> Scores:
        its_nats, its_likeliest = score_windows(_logits(candidate), windows)
        gap = its_nats - nats
        ratio, error = math.exp(float(gap.mean())), float(gap.std(ddof=1)) / math.sqrt(len(gap))
        agreement = (its_likeliest == likeliest).mean(axis=1)
        paired = (
            PairedMetric(
                name="ppl_increase",
                value=ratio - 1,
                standard_error=ratio * error,
                samples=samples,
                data=evaluation.data,
            ),
            PairedMetric(
                name="top1_agreement",
                value=float(agreement.mean()),
                standard_error=float(agreement.std(ddof=1)) / math.sqrt(samples),
                samples=samples,
                data=evaluation.data,
            ),
        )
        if not evaluation.has_task_metric:
            return Scores(paired=paired)
        return Scores(paired=paired, quality=(_result(_bits(nats), _bits(its_nats), evaluation.data),))

    return evaluate


def _bits(nats: Array) -> Metric:
    return Metric(name="bits_per_byte", value=float(nats.mean()) / math.log(2))


def _result(reference: Metric, actual: Metric, data: str) -> QualityResult:
    return QualityResult(
        metric=reference.name,
        reference=reference.value,
        bundle=actual.value,
        higher_is_better=HIGHER_IS_BETTER[reference.name],
        data=data,
    )


def _logits(session: Session) -> Callable[[Array], Array]:
    def logits(ids: Array) -> Array:
        feeds = {"input_ids": ids, "pad_length": np.zeros(len(ids), dtype=np.int64)}
        return session.run(feeds, session.new_state(len(ids)))["logits"]

    return logits


def _image_evaluator(
    reference: Session, settings: DiffusionSettings | GanSettings, evaluation: Evaluation, samples: int, seed: int
) -> Evaluator:
    request = _image_request(reference, settings, samples, seed)
    recorder = _Recorder(session=reference)
    images = _draw(recorder, settings, request)
    labels = np.asarray(request.get("class_labels", ()), dtype=np.int64)
    measured = image_quality(images, labels) if evaluation.has_task_metric else ()

    def evaluate(candidate: Session) -> Scores:
        drawn = _draw(candidate, settings, request)
        paired = [_image_psnr(images, drawn)]
        if isinstance(settings, DiffusionSettings):
            paired.append(_step_sqnr(candidate, recorder))
        quality = (
            [_result(a, b, evaluation.data) for a, b in zip(measured, image_quality(drawn, labels), strict=True)]
            if measured
            else []
        )
        return Scores(paired=tuple(paired), quality=tuple(quality))

    return evaluate


def _image_request(
    session: Session, settings: DiffusionSettings | GanSettings, samples: int, seed: int
) -> dict[str, Any]:
    request: dict[str, Any] = {"seed": seed}
    if settings.num_classes:
        request["class_labels"] = [i % settings.num_classes for i in range(samples)]
    else:
        request["batch"] = samples
    for tensor in session.interface.inputs:
        if tensor.name == "encoder_hidden_states":
            width = int(tensor.shape[2])
            rng = np.random.default_rng(seed)
            request[tensor.name] = rng.standard_normal((samples, CONTEXT_TOKENS, width), dtype=np.float32)
    return request


def _draw(session: Session, settings: Pipeline, request: Mapping[str, Any]) -> Array:
    pipeline: Any = make_pipeline(session, settings)
    images: Array = pipeline.generate(**request)
    return images


def _image_psnr(reference: Array, actual: Array) -> PairedMetric:
    """PSNR of the mean squared error, its standard error by the delta method over images."""
    errors = ((reference.astype(np.float64) - actual) ** 2).reshape(len(reference), -1).mean(axis=1)
    mean = float(errors.mean())
    spread = float(errors.std(ddof=1)) / math.sqrt(len(errors))
    return PairedMetric(
        name="psnr_db",
        value=psnr_db(reference, actual),
        standard_error=0.0 if mean == 0 else 10 / math.log(10) * spread / mean,
        samples=len(errors),
    )


def _step_sqnr(candidate: Session, recorder: _Recorder) -> PairedMetric:
    worst = min(compare_arrays(out, candidate.run(feeds)["model_output"]).sqnr_db for feeds, out in recorder.steps)
    return PairedMetric(name="step_sqnr_db", value=worst, standard_error=0.0, samples=len(recorder.steps))


@dataclass
class _Recorder:
    """A session that keeps the first rows of what goes through it."""

    session: Session
    steps: list[tuple[dict[str, Array], Array]] = field(default_factory=list)

    @property
    def interface(self) -> Interface:
        return self.session.interface

    @property
    def engine_seconds(self) -> float:
        return self.session.engine_seconds

    def new_state(self, batch: int) -> State:
        return self.session.new_state(batch)

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        results = self.session.run(feeds, state)
        if "model_output" in results:
            kept = {name: array[:TRAJECTORY_ROWS].copy() for name, array in feeds.items()}
            self.steps.append((kept, results["model_output"][:TRAJECTORY_ROWS].copy()))
        return results

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
