"""Derive the limits that a bundle of lower precision carries, where the model's own quality decides.

A language model may be far from PyTorch in every logit and as good: its quality is measured, and decides. A device
cannot measure it. It compares tensors with PyTorch's, which proves that it computes what the export computed and
judged: so its limits follow from what was measured here, with room for kernels that round in another order, and never
become stricter than those of the precision.
"""

from __future__ import annotations

from dataclasses import replace

from aigc_export.recipes.tolerances import LOOSEST_DB
from aigc_export.workloads.base import Workload
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.bundle.measured import Measured, MeasuredValue
from aigc_runtime.core.compare import judge
from aigc_runtime.proof.verify import ParityReport

__all__ = ["MARGIN_DB", "as_measured", "device_limits", "held_to", "quality_decides", "settled"]

MARGIN_DB = 6.0
"""Below the worst tensor that was measured here: the error of a device may be twice as large. Kernels that round floats
in another order change it by up to 2 dB (docs/quantization.md); those that computed something else were 19 dB worse."""
AGREEMENT_SHARE = 0.25
"""Of the share of generated tokens that agree: after one token that differs, all others may."""
MIN_AGREEMENT = 0.01


def settled(
    report: ParityReport, tolerances: Tolerances, workload: Workload, scores: Scores
) -> tuple[ParityReport, Tolerances]:
    """Decide by the measured quality where it does, and derive the limits that the bundle carries.

    Returns:
        The report and the limits; as they were where tensors decide.
    """
    if not quality_decides(workload, report.precision, scores):
        return report, tolerances
    limits = device_limits(tolerances, report)
    return held_to(report, limits), limits


def quality_decides(workload: Workload, precision: str, scores: Scores) -> bool:
    """Check whether the measured quality decides, and not the limits on tensors."""
    return workload.quality_decides and precision != "fp32" and bool(scores.paired)


def device_limits(tolerances: Tolerances, report: ParityReport) -> Tolerances:
    """Loosen limits on tensors and on the generation to what was measured, with room; the user's own stay.

    Args:
        tolerances: of the recipe.
        report: what was measured.
    """
    tensor, chosen = tolerances.tensor, tolerances.set_by_user
    worst_db = min((c.errors.sqnr_db for c in report.tensors), default=0.0)
    worst_cosine = min((c.errors.cosine for c in report.tensors), default=0.0)
    noise = 10 ** (MARGIN_DB / 10)
    if tensor.min_sqnr_db is not None and "min_sqnr_db" not in chosen:
        loosest = max(worst_db - MARGIN_DB, LOOSEST_DB)
        tensor = replace(tensor, min_sqnr_db=min(tensor.min_sqnr_db, loosest))
    if tensor.min_cosine is not None and tensor.min_sqnr_db is not None and "min_cosine" not in chosen:
        # 1 - cosine is in proportion to the noise; where it leaves nothing, the ratio of signal to noise stands alone.
        loosest = 1 - noise * (1 - worst_cosine)
        tensor = replace(tensor, min_cosine=min(tensor.min_cosine, loosest) if loosest > 0 else None)
    agreement = tolerances.min_token_agreement
    if agreement is not None and "min_token_agreement" not in chosen:
        agreement = min(agreement, max(AGREEMENT_SHARE * report.generation.value, MIN_AGREEMENT))
    return replace(tolerances, tensor=tensor, min_token_agreement=agreement)


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


def held_to(report: ParityReport, tolerances: Tolerances) -> ParityReport:
    """Hold what a report measured of tensors and the generation against other limits."""
    verdicts = [judge(check.errors, tolerances.tensor) for check in report.tensors]
    generation, limit = report.generation, tolerances.min_token_agreement
    if limit is not None:
        passed = generation.value >= limit
        missed = (f"{generation.metric} is {generation.value:.4g}, at least {limit:g} is needed",)
        reasons = () if passed else generation.reasons or missed
        generation = replace(generation, limit=limit, passed=passed, reasons=reasons)
    return replace(
        report,
        tensors=tuple(
            replace(check, passed=verdict.passed, reasons=verdict.reasons)
            for check, verdict in zip(report.tensors, verdicts, strict=True)
        ),
        generation=generation,
    )
