"""`aigc-export sensitivity`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.model_options import calibration_option, chosen_model, model_options, seed_option, target_option
from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console, threads_option
from aigc_export.cli.paths import WRITTEN_PATH
from aigc_export.cli.search_options import search_options
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from aigc_export.mixed_precision.sensitivity import SensitivityReport


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export sensitivity unet --plot unet.svg")
@click.argument("model")
@click.option("--low", help="Low precision: int8 (default), or int4 against int8 weights.")
@target_option
@model_options
@calibration_option("for the ranges")
@click.option("--jobs", type=click.IntRange(min=1), help="Local processes. Default: 1.")
@click.option("--dask", help="Address of a Dask scheduler, in place of --jobs.")
@click.option("--search-dir", type=WRITTEN_PATH, help="Journal, for a later search. Default: none.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Sites in the table.")
@click.option("--plot", type=WRITTEN_PATH, help="Draw them: .svg, .png or .pdf.")
@seed_option("choice of samples")
@threads_option
@json_option
def sensitivity(
    model: str,
    low: str | None,
    target: str,
    calibration: str | None,
    jobs: int | None,
    dask: str | None,
    search_dir: Path | None,
    top: int,
    plot: Path | None,
    seed: int,
    threads: int | None,
    as_json: bool,
    requested: dict[str, Any],
) -> None:
    """Say what low precision costs and saves at every site of MODEL, each alone: noise, milliseconds, bytes."""
    from aigc_export.cli.reporting import StageDisplay
    from aigc_export.mixed_precision.plots import plot_format, sensitivity_plot
    from aigc_export.mixed_precision.sensitivity import measure_sensitivity
    from aigc_export.recipes.recipe import export_recipe
    from aigc_models.sources import kind_of
    from aigc_runtime.io.publish import atomic_write_bytes
    from aigc_runtime.io.report import check_outputs

    check_outputs(plot)
    kind = None if plot is None else plot_format(plot.suffix)
    workers = {k: v for k, v in {"--jobs": jobs, "--dask": dask}.items() if v}
    chosen = chosen_model(model, requested)
    recipe = export_recipe(
        chosen,
        target=target,
        precision="auto",
        seed=seed,
        threads=threads,
        calibration=calibration,
        **requested,
        **search_options(kind_of(chosen), "auto", workers, folder=search_dir, samples=0),
    )
    console = err_console() if as_json else out_console()
    with StageDisplay(console, f"sensitivity {model}", bar=not as_json) as shown:
        found = measure_sensitivity(recipe, low=low, stage=shown.stage, progress=shown.progress)
    if plot is not None and kind is not None:
        title = f"{model} on {target}, {found.pair}: {found.total_db:.1f} dB together"
        atomic_write_bytes(plot, sensitivity_plot(found.sites, title, kind=kind))
    if as_json:
        sites = [{**asdict(s), "sqnr_db": s.sqnr_db} for s in found.sites]
        emit_json(
            "aigc-export-sensitivity/1", {**asdict(found), "sites": sites, "plot": None if plot is None else str(plot)}
        )
        return
    console.print(_table(found, top))
    console.print(f"all {len(found.sites)} sites together: {found.total_db:.1f} dB by the sum of their noise")
    if plot is not None:
        console.print(printable(f"wrote {plot}"), soft_wrap=True, markup=False)


def _table(found: SensitivityReport, top: int) -> Table:
    from rich.markup import escape
    from rich.table import Table

    shown = found.sites[:top]
    title = f"{found.model} · {found.target} · {found.pair}: the {len(shown)} noisiest of {len(found.sites)} sites"
    table = Table(title=title, title_justify="left")
    for heading in ("site", "operator", "alone, dB", "of all noise", "saves, ms a step", "saves, kB"):
        table.add_column(heading, overflow="fold")
    for s in shown:
        table.add_row(
            escape(s.module or s.node),
            s.op_type,
            f"{s.sqnr_db:.1f}",
            f"{s.share:.1%}",
            f"{s.saved_ms:.4f} ± {s.saved_ms_error:.4f}",
            f"{s.saved_bytes / 1e3:.1f}",
        )
    return table
