"""Ask a target to build an engine from a prepared model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.onnx_file import SharedWeights
from aigc_calibration.plan import QuantizationPlan
from aigc_export.prepare.prepare import PreparedModel, pass_feeds
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import BuildRequest, EngineUnderTest
from aigc_runtime.core.progress import Progress

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["build_engine"]


def build_engine(
    prepared: PreparedModel,
    graph: ir.Model,
    plan: QuantizationPlan | None,
    recipe: ExportRecipe,
    folder: Path,
    *,
    precision: str | None = None,
    shared: SharedWeights | None = None,
    progress: Progress | None = None,
) -> EngineUnderTest:
    """Build the engine of the recipe's target.

    Args:
        prepared: the model and its float graph.
        graph: to build, quantized or not.
        plan: that it was quantized by; None for fp32.
        recipe: target and settings.
        folder: where the files go.
        precision: of the graph; None takes the recipe's.
        shared: a file of weights that the engines of all parts may read.
        progress: called after every step of a compilation; False cancels it, and what it raises ends it.

    Raises:
        AigcError: it cannot be built, or was built in another precision than was asked for.
    """
    request = BuildRequest(
        program=prepared.program,
        part=prepared.part,
        graph=graph,
        float_graph=prepared.graph,
        feeds=pass_feeds(prepared.part, recipe.seed)[0],
        precision=precision or recipe.precision,
        settings=recipe.build,
        plan=plan,
        threads=recipe.threads,
        shared=shared,
    )
    return recipe.target.build(request, folder, progress)
