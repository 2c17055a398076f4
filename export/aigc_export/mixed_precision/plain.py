"""Build the plain precisions that a mix must beat, each as its own export would ship it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aigc_calibration.calibrate import Calibration
from aigc_calibration.errors import PlanError
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import quantize
from aigc_export.mixed_precision.candidates import Built
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import Target
from aigc_export.workloads import Workload, get_workload
from aigc_runtime.core.progress import Progress

__all__ = ["plain_build", "plain_builds", "plain_precisions"]

_PLAIN = ("int8",)
_SMALLER = ("fp16", "int8-weight", "int4")
"""Stored smaller and computed with in float, so that no time is won: for searches by size."""


def plain_precisions(workload: Workload, target: Target, objective: str) -> tuple[str, ...]:
    """List the plain precisions below fp32 that a target runs and that could be better by the objective."""
    tried = (*_PLAIN, *(_SMALLER if objective == "size" else ()))
    return tuple(dict.fromkeys(workload.run_as(one, target.format) for one in tried if one in target.precisions))


def plain_build(
    prepared: PreparedModel,
    recipe: ExportRecipe,
    precision: str,
    *,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build a part in a plain precision with the model's own configuration, as its own export would ship it.

    Args:
        prepared: the float graph and its data.
        recipe: of the export.
        precision: of the whole part.
        calibration: in that precision; None calibrates now.
        progress: called after every batch.

    Raises:
        PlanError: the engine runs nothing of it in this precision.
        AigcError: the data cannot be used.
    """
    if precision == "fp32":
        return Built(name=precision, precision=precision, base=precision, graph=prepared.graph)
    assert prepared.data is not None
    assert recipe.quantization is not None
    found = quantize(
        prepared.graph,
        prepared.data,
        with_hints(recipe.quantization, prepared.part.hints, precision),
        precision=as_site_precision(precision),
        form=recipe.target.format,
        executed=recipe.target.executed,
        calibration=calibration,
        outputs=prepared.output_names,
        threads=recipe.threads,
        progress=progress,
    )
    return Built(
        name=precision,
        precision=precision,
        base=precision,
        graph=found.graph,
        plan=found.plan,
        coverage=found.coverage,
        statistics=found.statistics,
    )


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
    for precision in plain_precisions(get_workload(prepared.program.kind), recipe.target, objective):
        # An engine that runs nothing of it in this precision offers no such bundle.
        with contextlib.suppress(PlanError):
            own = calibration if precision == "int8" else None
            yield plain_build(prepared, recipe, precision, calibration=own)
