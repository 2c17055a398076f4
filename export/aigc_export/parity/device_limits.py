"""Derive the limits that a bundle of lower precision carries, where the model's own quality decides.

A language model may be far from PyTorch in every logit and as good: its quality is measured, and decides. A device
cannot measure it. It compares tensors with PyTorch's, which proves that it computes what the export computed and
judged: so its limits follow from what was measured here, with room for kernels that round in another order, and never
become stricter than those of the precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aigc_export.recipes.tolerances import LOOSEST_DB
from aigc_export.workloads.base import Workload
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.bundle.measured import Measured, MeasuredValue
from aigc_runtime.core.compare import EXACT_DB, Tolerance, judge
from aigc_runtime.proof.verify import OwnLimits, ParityReport

__all__ = ["MARGIN_DB", "Settled", "as_measured", "quality_decides", "settle"]

MARGIN_DB = 6.0
"""Below what was measured here of the same output: the error of a device may be twice as large. Kernels that round
floats in another order change it by up to 2 dB (docs/quantization.md); those that computed something else were 19 dB
worse."""
AGREEMENT_SHARE = 0.25
"""Of the share of generated tokens that agree: after one token that differs, all others may."""
MIN_AGREEMENT = 0.01


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was decided.

    Attributes:
        report: of parity.
        tolerances: that the bundle carries.
        own: limits of the outputs that have their own.
    """

    report: ParityReport
    tolerances: Tolerances
    own: OwnLimits = field(default_factory=dict)


def settle(report: ParityReport, tolerances: Tolerances, workload: Workload, scores: Scores) -> Settled:
    """Decide by the measured quality where it does, and derive the limits that the bundle carries.

    Args:
        report: what was measured, judged by the limits of the precision.
        tolerances: these limits.
        workload: of the kind of pipeline.
        scores: the measured quality.

    Returns:
        Report and limits as they were, where tensors decide.
    """
    if not quality_decides(workload, report.precision, scores):
        return Settled(report=report, tolerances=tolerances)
    own = own_limits(tolerances, report)
    limit = generation_limit(tolerances, report)
    return Settled(
        report=held_to(report, own, limit), tolerances=replace(tolerances, min_token_agreement=limit), own=own
    )


def quality_decides(workload: Workload, precision: str, scores: Scores) -> bool:
    """Check whether the measured quality decides, and not the limits on tensors."""
    return workload.quality_decides and precision != "fp32" and bool(scores.paired)


def own_limits(tolerances: Tolerances, report: ParityReport) -> dict[tuple[str, int, str], Tolerance]:
    """Give outputs that are further from PyTorch's than the precision's limits, with room, limits of their own.

    Where the user has set a limit on tensors, there are none.
    """
    if set(tolerances.set_by_user) & set(vars(tolerances.tensor)):
        return {}
    least = tolerances.tensor.min_sqnr_db or EXACT_DB
    return {
        (check.case, check.step, check.output): Tolerance(
            min_sqnr_db=min(least, max(check.errors.sqnr_db - MARGIN_DB, LOOSEST_DB))
        )
        for check in report.tensors
        if not check.passed or check.errors.sqnr_db - MARGIN_DB < least
    }


def generation_limit(tolerances: Tolerances, report: ParityReport) -> float | None:
    """Loosen the limit on the generation to what was measured, with room; the user's own stays."""
    limit = tolerances.min_token_agreement
    if limit is None or "min_token_agreement" in tolerances.set_by_user:
        return limit
    return min(limit, max(AGREEMENT_SHARE * report.generation.value, MIN_AGREEMENT))


def as_measured(report: ParityReport) -> Measured:
    """What a bundle's manifest says of its export: the worst tensor, the generation and the paired measures."""
    return Measured(
        min_sqnr_db=min((c.errors.sqnr_db for c in report.tensors), default=0.0),
        generation=report.generation.value,
        paired=tuple(
            MeasuredValue(
                name=check.metric.name,
                value=check.metric.value,
                standard_error=check.metric.standard_error,
                samples=check.metric.samples,
                data=check.metric.data,
            )
            for check in report.paired
        ),
    )


def held_to(report: ParityReport, own: OwnLimits, agreement: float | None) -> ParityReport:
    """Hold what a report measured against limits of single outputs, and against another one on the generation."""
    tensors = []
    for check in report.tensors:
        limits = own.get((check.case, check.step, check.output))
        verdict = None if limits is None else judge(check.errors, limits)
        tensors.append(check if verdict is None else replace(check, passed=verdict.passed, reasons=verdict.reasons))
    generation = report.generation
    if agreement is not None:
        passed = generation.value >= agreement
        missed = (f"{generation.metric} is {generation.value:.4g}, at least {agreement:g} is needed",)
        reasons = () if passed else generation.reasons or missed
        generation = replace(generation, limit=agreement, passed=passed, reasons=reasons)
    return replace(report, tensors=tuple(tensors), generation=generation)
