"""`aigc-export calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console, threads_option

if TYPE_CHECKING:
    from rich.table import Table

    from aigc_export.calibrator import CalibrationResult

SHOWN = 8
"""Ranges in the table."""


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export calibrate lm --precision int8 -o lm.npz")
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--precision", default="int8", show_default=True, help="int8, fp8, fp16 or bf16.")
@click.option("--target", default="ort-cpu", show_default=True, help="Engine and device; see `aigc-export models`.")
@click.option("--checkpoint", type=click.Path(), help="Your own weights. Default: the shipped ones.")
@click.option("--cache", help="KV cache of a language model: growing (default) or buffer.")
@click.option("--dynamic-size/--fixed-size", default=None, help="Let the sides of a UNet's sample vary.")
@click.option("--calibration-data", type=click.Path(), help="Your text, images or .npz. Default: the model's own.")
@click.option("--calibration-samples", type=click.IntRange(min=1), help="Default: what suits the family.")
@click.option("--split-skips", is_flag=True, help="A range for each branch of a concatenation, in 8 bits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice of samples.")
@threads_option
@json_option
def calibrate(
    model: str,
    output: Path,
    precision: str,
    target: str,
    checkpoint: str | None,
    cache: str | None,
    dynamic_size: bool | None,
    calibration_data: str | None,
    calibration_samples: int | None,
    split_skips: bool,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run samples through MODEL and keep the ranges of its values in a file, for `export --calibration`.

    The file fits the graph that it was made from, and no other: the same model, checkpoint, cache and sizes.
    """
    from aigc_export.calibrator import calibrate_model
    from aigc_export.cli.reporting import Reporter
    from aigc_export.recipes import export_recipe

    recipe = export_recipe(
        model,
        target=target,
        precision=precision,
        checkpoint=checkpoint,
        spec_options={"cache": cache, "dynamic_size": dynamic_size},
        seed=seed,
        threads=threads,
        calibration_data=calibration_data,
        calibration_samples=calibration_samples,
        split_concats=split_skips,
    )
    console = err_console() if as_json else out_console()
    with Reporter(console, f"calibrate {model}", bar=not as_json) as shown:
        found = calibrate_model(recipe, output, stage=shown.stage, progress=shown.progress)
    seen = found.calibration.statistics
    size = output.stat().st_size
    if as_json:
        emit_json(
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
            }
        )
        return
    console.print(_table(found))
    console.print(f"samples {seen.samples_sha256}")
    console.print(f"graph   {found.calibration.graph_sha256}")
    console.print(
        f"wrote {output}: {found.samples} samples ({seen.samples} rows in {seen.batches} batches), "
        f"{len(seen.tensors)} values, {size / 1e6:.2f} MB in {found.seconds:.1f} s",
        soft_wrap=True,
        markup=False,
    )


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
