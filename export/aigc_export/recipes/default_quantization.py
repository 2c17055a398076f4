"""Choose how a model is quantized where its user asks for nothing, and what its sites may get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import fits_samples
from aigc_calibration.config import QuantConfig, WeightMethod
from aigc_calibration.plan import SitePrecision, as_site_precision
from aigc_export.recipes.part_precisions import lowest_precision
from aigc_export.targets.base import Target
from aigc_export.workloads import Workload

if TYPE_CHECKING:
    from aigc_models.program import Program

__all__ = ["default_quantization", "default_samples", "site_precisions"]


def default_quantization(
    workload: Workload, target: Target, precisions: Sequence[str], *, weight_method: WeightMethod | None = None
) -> QuantConfig | None:
    """Make the quantization of a recipe; None where every part stays as it is.

    Args:
        workload: of the model's kind.
        target: of the recipe.
        precisions: of all parts.
        weight_method: that is asked for.
    """
    if lowest_precision(precisions) == "fp32":
        return None
    return QuantConfig(
        nearest=workload.nearest,
        gain_smoothing=workload.gain_smoothing,
        weight_method=weight_method,
        block=workload.block,
        float_share=workload.float_share,
    )


def default_samples(config: QuantConfig, workload: Workload, target: Target, precision: str, program: Program) -> int:
    """Choose how many samples a part is calibrated on where no number is asked for.

    Args:
        config: of the part: where codes and ranges are fitted to samples, it takes many.
        workload: of the model's kind.
        target: that runs it.
        precision: of the part.
        program: the whole model.
    """
    sites = site_precisions(workload, target, (precision,))
    many = any(fits_samples(config, one) for one in sites)
    return workload.samples_for(precision, program) if many else workload.few_samples


def site_precisions(workload: Workload, target: Target, precisions: Sequence[str]) -> tuple[SitePrecision, ...]:
    """List the precisions that sites may get; those of `auto` are what a search of any objective may choose.

    Args:
        workload: of the model's kind.
        target: of the recipe.
        precisions: as they are asked for; fp32 adds none.
    """
    found: list[SitePrecision] = []
    for name in precisions:
        if name == "auto":
            found += [one for pair in workload.searched_pairs("size", target.format) for one in pair if one != "float"]
        elif name != "fp32":
            found.append(as_site_precision(workload.run_as(name, target.format)))
    return tuple(dict.fromkeys(found))
