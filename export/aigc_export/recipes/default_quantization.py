"""Choose how a model is quantized where its user asks for nothing, and what its sites may get."""

from __future__ import annotations

from collections.abc import Sequence

from aigc_calibration.config import QuantConfig
from aigc_calibration.plan import SitePrecision, as_site_precision
from aigc_export.recipes.part_precisions import lowest_precision
from aigc_export.targets.base import Target
from aigc_export.workloads import Workload

__all__ = ["default_quantization", "site_precisions"]


def default_quantization(workload: Workload, precisions: Sequence[str]) -> QuantConfig | None:
    """Make the quantization of a recipe; None where every part stays as it is.

    Args:
        workload: of the model's kind.
        precisions: of all parts.
    """
    lowest = lowest_precision(precisions)
    if lowest == "fp32":
        return None
    return QuantConfig(samples=workload.samples_for(lowest), nearest=workload.nearest)


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
