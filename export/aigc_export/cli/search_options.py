"""The options of `--precision auto` as a configuration, and its report on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from aigc_export.mixed_precision.report import SearchReport

__all__ = ["print_search", "search_options"]

KEPT_SHOWN = 12


def search_options(
    kind: str, precision: str, requested: Mapping[str, Any], *, folder: Path | None, samples: int | None
) -> dict[str, Any]:
    """Make the recipe's field `search`, or the argument `budget` of `export_recipe`, from the options.

    Args:
        kind: of the model's pipeline.
        precision: as asked for.
        requested: option -> value, of those that were given.
        folder: for the journal and the report; None keeps them in memory.
        samples: on which mixes are evaluated; 0 and None take the default.

    Raises:
        ConfigError: options of a search without a search.
    """
    from aigc_calibration.search.journal import JOURNAL_FILE
    from aigc_calibration.search.workers import check_dask_address
    from aigc_export.recipes.budget import check_measures, parse_budget
    from aigc_export.recipes.part_precisions import parse_precisions
    from aigc_export.recipes.search import OBJECTIVES, SearchConfig
    from aigc_export.workloads import get_workload
    from aigc_runtime.io.publish_checks import check_file

    if parse_precisions(precision)[0] != "auto":
        if others := [name for name in requested if name != "--budget"]:
            raise ConfigError(f"{', '.join(others)} without a search", hint="add --precision auto, or leave it out")
        return {"budget": requested["--budget"]} if requested else {}
    workload = get_workload(kind)
    budgets = requested.get("--budget") or (workload.budget,)
    objective = requested.get("--objective", "latency")
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    if "--jobs" in requested and "--dask" in requested:
        raise ConfigError("both --jobs and --dask were given", hint="the cluster has its own workers: give one")
    parsed = tuple(parse_budget(text, workload) for text in budgets)
    check_measures(parsed, workload)
    if folder is not None:
        check_file(folder / JOURNAL_FILE)
    if "--dask" in requested:
        check_dask_address(requested["--dask"])
    return {
        "search": SearchConfig(
            budgets=parsed,
            objective=objective,
            jobs=requested.get("--jobs", 1),
            dask=requested.get("--dask"),
            folder=folder,
            **({"samples": samples} if samples else {}),
        )
    }


def print_search(console: Console, report: SearchReport) -> None:
    """Print the tables, the verdict, and a sentence for each site or part of the result in higher precision."""
    from aigc_export.mixed_precision.report import pareto_table, part_table

    if report.parts:
        console.print(part_table(report))
    console.print(pareto_table(report))
    console.print(printable(report.verdict), soft_wrap=True, markup=False)
    for node, why in list(report.kept.items())[:KEPT_SHOWN]:
        console.print(printable(f"  {node}: {why}"), soft_wrap=True, markup=False)
    if len(report.kept) > KEPT_SHOWN:
        console.print(f"  ... and {len(report.kept) - KEPT_SHOWN} more: see search.json", markup=False)
