"""`aigc-export calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.model_options import model_options, seed_option, target_option
from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console, threads_option
from aigc_export.cli.paths import WRITTEN_PATH
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from aigc_export.line.calibrator import CalibrationResult

SHOWN = 8
"""Ranges in the table."""


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export calibrate unet --precision int8 -o unet.npz")
@click.argument("model")
@click.option("-o", "--output", required=True, type=WRITTEN_PATH, help="File to write.")
@click.option("--precision", default="int8", show_default=True, help="int8, fp8, fp16 or bf16.")
@target_option
@model_options
@seed_option("choice of samples")
@threads_option
@json_option
def calibrate(
    model: str,
    output: Path,
    precision: str,
    target: str,
    seed: int,
    threads: int | None,
    as_json: bool,
    requested: dict[str, Any],
) -> None:
    """Run samples through MODEL and keep the ranges of its values in a file, for `export --calibration`.

    The file fits the graph that it was made from, and no other: the same model, checkpoint, cache and sizes.
    """
    from aigc_export.cli.reporting import StageDisplay
    from aigc_export.line.calibrator import calibrate_model
    from aigc_export.recipes.recipe import export_recipe
    from aigc_runtime.io.report import check_outputs

    check_outputs(output)
    recipe = export_recipe(
        model,
        target=target,
        precision=precision,
        seed=seed,
        threads=threads,
        **requested,
    )
    console = err_console() if as_json else out_console()
    with StageDisplay(console, f"calibrate {model}", bar=not as_json) as shown:
        found = calibrate_model(recipe, output, stage=shown.stage, progress=shown.progress)
    seen = found.calibration.statistics
    size = output.stat().st_size
    if as_json:
        emit_json(
            "aigc-export-calibrate/1",
            {
                "output": str(output),
                "size_bytes": size,
                "precision": precision,
                "samples": found.samples,
                "rows": seen.samples,
                "batches": seen.batches,
                "values": len(seen.tensors),
                "samples_sha256": seen.samples_sha256,
                "graph_sha256": found.calibration.graph_sha256,
                "smoothed_values": len(found.calibration.channels),
                "ranges": [asdict(r) for r in found.ranges],
                "warnings": list(found.warnings),
                "seconds": round(found.seconds, 3),
            },
        )
        return
    console.print(_table(found))
    console.print(f"samples {seen.samples_sha256}")
    console.print(f"graph   {found.calibration.graph_sha256}")
    message = (
        f"wrote {output}: {found.samples} samples ({seen.samples} rows in {seen.batches} batches), "
        f"{len(seen.tensors)} values, {size / 1e6:.2f} MB in {found.seconds:.1f} s"
    )
    console.print(printable(message), soft_wrap=True, markup=False)


def _table(found: CalibrationResult) -> Table:
    from rich.markup import escape
    from rich.table import Table

    shown = found.ranges[:SHOWN]
    title = f"the {len(shown)} least stable of {len(found.ranges)} ranges, and how far the halves of the samples differ"
    table = Table(title=title, title_justify="left")
    table.add_column("value", overflow="fold")
    table.add_column("range", justify="right")
    table.add_column("halves differ by", justify="right")
    for r in shown:
        table.add_row(escape(r.name), f"± {r.amax:.4g}", f"{r.instability:.1%}")
    return table
