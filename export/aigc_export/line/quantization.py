"""Quantize the parts of a model, and say what of them runs in low precision."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aigc_calibration.errors import PlanError
from aigc_calibration.quantize import Quantized, quantize
from aigc_export.prepare.calibration_data import described
from aigc_export.prepare.prepare import PreparedModel, Reporter, Stage
from aigc_export.prepare.stability import instability_warning
from aigc_export.recipes.recipe import ExportRecipe
from aigc_runtime.core.progress import Progress

__all__ = ["calibration_facts", "quantize_parts", "report_quantized"]

_LOG = logging.getLogger(__name__)

SHOWN_SITES = 3
"""Names of sites in a line that says why they stay float."""


def report_quantized(quantized: Quantized, stage: Stage, *, of: str = "", notes: bool = True) -> None:
    """Report the number of sites of each precision, then a line for each reason why sites stay float.

    Args:
        quantized: a graph.
        stage: where it is reported.
        of: in front of every line: which part it is of.
        notes: whether the plan's sentences on how choices were made are reported, too.
    """
    for note in quantized.plan.notes if notes else ():
        stage("choose", f"{of}{note}")
    counts = ", ".join(f"{n} {precision}" for precision, n in sorted(quantized.plan.counts().items()))
    stage("quantize", f"{of}{counts}{_tables(quantized)}; {quantized.coverage}")
    for why, sites in quantized.coverage.reasons().items():
        _LOG.debug("left float, %s: %s", why, ", ".join(sites))
        more = f" and {len(sites) - SHOWN_SITES} more" if len(sites) > SHOWN_SITES else ""
        stage("left float", f"{of}{', '.join(sites[:SHOWN_SITES])}{more}: {why}")


def _tables(quantized: Quantized) -> str:
    """Say which tables are stored in 8 bits, and which of them once with a product's weight."""
    stored = [one for one in quantized.plan.lookups if one.block is not None]
    for one in quantized.plan.lookups:
        _LOG.debug("table of %s: %s, %s", one.module or one.node, one.precision, one.why)
    if not stored:
        return ""
    shared = sum(1 for one in stored if one.shares is not None)
    tables = "1 table" if len(stored) == 1 else f"{len(stored)} tables"
    return f", {tables} in 8 bits" + (f" ({shared} shared with a product)" if shared else "")


def quantize_parts(
    prepared: Sequence[PreparedModel], recipe: ExportRecipe, reporter: Reporter, progress: Progress | None
) -> dict[str, Quantized]:
    """Quantize every part that has anything to quantize; of several parts one may stay float as a whole.

    Raises:
        PlanError: there is nothing in any of them.
    """
    quantized: dict[str, Quantized] = {}
    failures: list[PlanError] = []
    for one in prepared:
        if one.data is None:
            continue
        if (same := _same_graph(one, prepared, recipe)) in quantized:
            quantized[one.part.name] = quantized[same]
            continue
        try:
            quantized[one.part.name] = _quantize(one, recipe.of_part(one.part.name), reporter, progress)
        except PlanError as err:
            failures.append(err)
            reporter.warn(f"{one.part.name} stays float: {err.message}")
    if failures and not quantized:
        raise failures[0]
    return quantized


def _same_graph(one: PreparedModel, prepared: Sequence[PreparedModel], recipe: ExportRecipe) -> str:
    """The first part that has the same graph and is quantized in the same way."""
    own = recipe.of_part(one.part.name)
    return next(p.part.name for p in prepared if p.graph is one.graph and recipe.of_part(p.part.name) == own)


def _quantize(model: PreparedModel, recipe: ExportRecipe, reporter: Reporter, progress: Progress | None) -> Quantized:
    assert model.quantization is not None
    assert model.data is not None
    found = quantize(
        model.graph,
        model.data,
        model.quantization,
        precision=recipe.site_precision,
        form=recipe.target.format,
        executed=recipe.target.executed,
        calibration=model.calibration,
        outputs=model.output_names,
        threads=recipe.threads,
        progress=progress,
    )
    seen, of = found.statistics, "" if len(model.program.parts) == 1 else f"{model.part.name}: "
    if not seen.batches:
        reporter.report("calibrate", f"{of}no samples: weights alone are rounded, to the nearest codes")
    elif model.calibration is None:
        counted = f", {len(seen.tensors)} values" if seen.tensors else ", magnitudes of channels"
        reporter.report("calibrate", f"{of}{described(model.data)}, {seen.batches} runs{counted}")
    else:
        reporter.report("calibrate", f"{of}{recipe.calibration}: {seen.samples} rows, {len(seen.tensors)} values")
    if unstable := instability_warning(found.plan, seen, model.quantization):
        reporter.warn(f"{of}{unstable}")
    report_quantized(found, reporter.report, of=of)
    return found


def calibration_facts(quantized: Quantized) -> dict[str, str]:
    """Say for the manifest what a part was calibrated on, and what came of it."""
    seen = quantized.statistics
    samples = {"calibration_samples": str(seen.samples), "calibration_samples_sha256": seen.samples_sha256}
    return {
        **(samples if seen.batches else {}),
        **({"kept_float": quantized.kept_float} if quantized.kept_float else {}),
        "float_graph_sha256": quantized.plan.graph_sha256,
        "low_precision": str(quantized.coverage),
    }
