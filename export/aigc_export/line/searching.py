"""Let `auto` choose: of one graph a precision for every site, of a program of several parts one for every part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from aigc_calibration.quantize import Quantized
from aigc_export.line.quantization import report_quantized
from aigc_export.mixed_precision.candidates import Built
from aigc_export.mixed_precision.part_search import search_parts
from aigc_export.mixed_precision.report import SearchReport
from aigc_export.mixed_precision.search import search
from aigc_export.parity.reference import Case
from aigc_export.prepare.prepare import PreparedModel, Reporter
from aigc_export.prepare.stability import instability_warning
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.part_precisions import joint_precisions, lowest_precision
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.recipes.tolerances import searched_limits
from aigc_export.workloads import get_workload
from aigc_models.program import Program
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import ConfigError

__all__ = ["check_search", "search_precisions"]


def check_search(recipe: ExportRecipe, program: Program) -> None:
    """Check before the work starts that there is something to search, in a way that the recipe asks for.

    Raises:
        ConfigError: parts that all have a precision already, that carry state, or workers that nothing would use.
    """
    config = recipe.search
    if config is None:
        return
    if program.parts.keys() <= recipe.parts.keys():
        raise ConfigError(
            f"a precision is given for every part of {program.name!r}, so that nothing is left to search",
            hint="leave auto out, or leave out the parts that it shall choose for",
        )
    if len(program.parts) == 1:
        return
    if stateful := [name for name, part in program.parts.items() if part.interface.state]:
        raise ConfigError(
            f"a search over parts measures each alone, and {', '.join(stateful)} of {program.name!r} carry state",
            hint="choose a precision, such as --precision int8, or one for each part: --precision PART=PRECISION,...",
        )
    if config.jobs > 1 or config.dask is not None:
        raise ConfigError(
            f"workers for a search over the parts of {program.name!r}, which runs one pipeline after the other",
            hint="leave --jobs and --dask out: they are for the sites of a model of one part",
        )


def search_precisions(
    prepared: Sequence[PreparedModel],
    recipe: ExportRecipe,
    config: SearchConfig,
    reporter: Reporter,
    *,
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> tuple[ExportRecipe, dict[str, Quantized], SearchReport]:
    """Search, and make the recipe of the result: its precisions, and the limits of the lowest of them.

    Args:
        prepared: every part.
        recipe: with precision `auto`.
        config: of the search.
        reporter: called after every stage.
        cases: of the proof.
        progress: called after every batch of calibration.

    Returns:
        The recipe of the result; part -> how it is quantized, where it is; the report.

    Raises:
        BudgetError: nothing keeps the budget.
        AigcError: any stage failed.
    """
    workload = get_workload(prepared[0].program.kind)
    if len(prepared) == 1:
        (one,) = prepared
        found = search(one, recipe, config, reporter.report, calibration=one.calibration, progress=progress)
        built = found.built
        builds = {one.part.name: replace(built, statistics=built.statistics or found.statistics)}
        changed = replace(recipe, precision=built.precision)
        lowest, report = built.base, found.report
    else:
        chosen = search_parts(prepared, recipe, config, reporter.report, cases=cases, progress=progress)
        builds = dict(chosen.builds)
        precision, parts = joint_precisions({name: built.precision for name, built in builds.items()})
        changed = replace(recipe, precision=precision, parts=parts)
        lowest, report = lowest_precision(built.base for built in builds.values()), chosen.report
    limits = searched_limits(lowest, config.budgets, recipe.tolerance, workload)
    return replace(changed, tolerances=limits), _quantized(prepared, recipe, builds, reporter), report


def _quantized(
    prepared: Sequence[PreparedModel], recipe: ExportRecipe, builds: Mapping[str, Built], reporter: Reporter
) -> dict[str, Quantized]:
    """Say how each part that a search has put into low precision is quantized."""
    found: dict[str, Quantized] = {}
    for one in prepared:
        name, built = one.part.name, builds[one.part.name]
        if built.plan is None or built.coverage is None:
            continue
        assert built.statistics is not None
        assert recipe.quantization is not None
        of = _of(name, one.program.parts)
        config = with_hints(recipe.quantization, one.part.hints, built.base)
        if unstable := instability_warning(built.plan, built.statistics, config):
            reporter.warn(f"{of}{unstable}")
        found[name] = Quantized(
            graph=built.graph, plan=built.plan, statistics=built.statistics, coverage=built.coverage
        )
        report_quantized(found[name], reporter.report, of=of)
    return found


def _of(part: str, parts: Collection[str]) -> str:
    return "" if len(parts) == 1 else f"{part}: "
