"""Compare a session with the PyTorch model: on tensors, on a whole generation, on quality. Fails closed."""

from __future__ import annotations

from collections.abc import Sequence

from aigc_export.reference import Case, Generation
from aigc_models.quality import HIGHER_IS_BETTER, measure
from aigc_models.spec import ExportSpec
from aigc_runtime.manifest import QualityResult, Tolerances
from aigc_runtime.session import Session
from aigc_runtime.verify import ParityReport, check_generation, check_quality, check_tensors

__all__ = ["check_parity", "measure_quality"]


def measure_quality(
    reference: Session, candidate: Session, spec: ExportSpec, *, samples: int, seed: int
) -> tuple[QualityResult, ...]:
    """The model's own metrics on both sides, over the same windows or noise.

    Returns:
        One result per metric; none for a model that has no metric, or for no samples.
    """
    ours = measure(reference, spec.settings, samples=samples, seed=seed)
    theirs = measure(candidate, spec.settings, samples=samples, seed=seed)
    return tuple(
        QualityResult(metric=a.name, reference=a.value, bundle=b.value, higher_is_better=HIGHER_IS_BETTER[a.name])
        for a, b in zip(ours, theirs, strict=True)
    )


def check_parity(
    candidate: Session,
    spec: ExportSpec,
    *,
    name: str,
    target: str,
    precision: str,
    cases: Sequence[Case],
    generation: Generation,
    quality: Sequence[QualityResult],
    tolerances: Tolerances,
) -> ParityReport:
    """All three levels for one session.

    Args:
        candidate: the engine.
        spec: the model.
        name: of the model, for the report, as are the next two.
        target: where it runs.
        precision: of its weights and arithmetic.
        cases: PyTorch's arrays.
        generation: PyTorch's generation.
        quality: measured on both sides.
        tolerances: explicit limits.
    """
    steps = [(case.name, [(step.inputs, step.outputs) for step in case.steps]) for case in cases]
    return ParityReport(
        name=name,
        target=target,
        precision=precision,
        tensors=check_tensors(candidate, steps, tolerances.tensor),
        generation=check_generation(candidate, spec.settings, generation.request, generation.output, tolerances),
        quality=check_quality(quality, tolerances),
    )
