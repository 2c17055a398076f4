"""Build the plain precisions that a mix must beat, each as its own export would ship it."""

from __future__ import annotations

from collections.abc import Iterator

from aigc_calibration.calibrate import Calibration
from aigc_calibration.errors import PlanError
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import quantize
from aigc_export.mixed_precision.candidates import Built
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads import get_workload

__all__ = ["plain_builds"]

_PLAIN = ("int8",)
_SMALLER = ("fp16", "int8-weight", "int4")
"""Stored smaller and computed with in float, so that no time is won: for searches by size."""


def plain_builds(
    prepared: PreparedModel, recipe: ExportRecipe, calibration: Calibration | None, *, objective: str
) -> Iterator[Built]:
    """Build the model's own configuration of every plain precision that could be better by the objective.

    Args:
        prepared: the float graph and its data.
        recipe: of the export.
        calibration: in int8; None where no precision of the search needs ranges.
        objective: of the search.
    """
    assert prepared.data is not None
    assert recipe.quantization is not None
    workload, form = get_workload(prepared.program.kind), recipe.target.format
    wanted = (*_PLAIN, *(_SMALLER if objective == "size" else ()))
    for precision in dict.fromkeys(workload.run_as(name, form) for name in wanted):
        try:
            found = quantize(
                prepared.graph,
                prepared.data,
                with_hints(recipe.quantization, prepared.part.hints, precision),
                precision=as_site_precision(precision),
                form=form,
                executed=recipe.target.executed,
                calibration=calibration if calibration is not None and precision == "int8" else None,
                outputs=prepared.output_names,
                threads=recipe.threads,
            )
        except PlanError:
            continue  # an engine that runs nothing of it in this precision offers no such bundle
        yield Built(
            name=precision,
            precision=precision,
            base=precision,
            graph=found.graph,
            plan=found.plan,
            coverage=found.coverage,
        )
