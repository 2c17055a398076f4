"""`aigc-export demo`: the whole product in one command, on the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console
from aigc_export.cli.paths import WRITTEN_PATH
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from aigc_runtime.bundle.bundle import Bundle


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export demo -o out/demo")
@click.option("-o", "--output", default="out/demo", show_default=True, type=WRITTEN_PATH, help="Folder.")
@click.option("--quality-samples", type=click.IntRange(min=2), default=100, show_default=True, help="Per model.")
@json_option
def demo(output: Path, quality_samples: int, as_json: bool) -> None:
    """Export shipped models, verify them, generate from each, and print one table."""
    from aigc_models.sources.shipped import MODELS

    console = err_console() if as_json else out_console()
    rows = [_one(name, output, quality_samples, console) for name, entry in MODELS.items() if entry.in_demo]
    if as_json:
        emit_json("aigc-export-demo/1", {"models": rows})
        return
    console.print(_table(rows))
    for row in rows:
        message = f"{row['model']}: bundle {row['bundle']}, generated {row['generated']}"
        console.print(printable(message), soft_wrap=True, markup=False)
    message = f'try: aigc-run generate {output / "lm"} --prompt "import " --temperature 0.8'
    console.print(printable(message), soft_wrap=True, markup=False)


def _one(name: str, output: Path, quality_samples: int, console: Console) -> dict[str, Any]:
    from rich.markup import escape

    from aigc_export.line.exporter import export_model
    from aigc_export.line.origin import load_original
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.tools.timing import time_side_by_side, torch_threads
    from aigc_models.torch_session import open_torch
    from aigc_runtime.backends.threads import available_threads
    from aigc_runtime.errors import ParityError
    from aigc_runtime.opening import open_program
    from aigc_runtime.proof.verify import verify_bundle

    console.rule(f"[bold]{name}", align="left")
    with console.status(f"export {name}"):
        result = export_model(
            export_recipe(name, quality_samples=quality_samples),
            output / name,
            stage=lambda stage, what: console.print(f"[bold]{stage:<20}[/]{escape(printable(what))}", soft_wrap=True),
        )
    bundle, pipeline = result.bundle, result.bundle.manifest.pipeline
    with open_program(bundle) as program:
        on_device = verify_bundle(bundle, program)
        if not on_device.passed:
            raise ParityError(f"{name}: the published bundle does not verify", hint="\n".join(on_device.failures))
        console.print(
            f"[bold]{'verify':<20}[/]the published bundle, as a device does: {len(on_device.tensors)} tensors, ok"
        )
        with torch_threads(available_threads()):
            reference = open_torch(load_original(bundle, None))
            timing = time_side_by_side(reference, program, pipeline.settings, pipeline.engines, rounds=3)
    worst = result.report.worst().errors
    return {
        "model": name,
        "bundle": str(bundle.path),
        "size_bytes": bundle.size_bytes,
        "max_abs_error": worst.max_abs,
        "sqnr_db": worst.sqnr_db,
        "quality": {q.metric: [q.reference, q.actual] for q in result.report.quality},
        "torch_ms": timing.reference_ms,
        "runtime_ms": timing.candidate_ms,
        "speedup": timing.speedup,
        "generated": _generate(name, bundle, output, console),
    }


def _generate(name: str, bundle: Bundle, output: Path, console: Console) -> str:
    """Use the bundle as an application would: through the runtime alone."""
    from aigc_export.workloads import get_workload
    from aigc_runtime.io.publish import atomic_write_bytes
    from aigc_runtime.opening import open_pipeline

    showcase = get_workload(bundle.manifest.pipeline.kind).showcase
    assert showcase is not None, "the shipped models have something to show"
    with open_pipeline(bundle.path) as pipeline:
        suffix, shown = showcase(pipeline)
    path = output / f"{name}{suffix}"
    atomic_write_bytes(path, shown)
    if suffix == ".txt":
        console.print(shown.decode("utf-8"), markup=False, style="dim")
    return str(path)


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="one step at batch 1, every processor", title_justify="left")
    for heading in ("model", "size", "parity error", "quality: PyTorch -> bundle", "PyTorch", "runtime", "speed-up"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        quality = "\n".join(f"{k} {a:.4g} -> {b:.4g}" for k, (a, b) in row["quality"].items())
        table.add_row(
            row["model"],
            f"{row['size_bytes'] / 1e6:.2f} MB",
            f"{row['max_abs_error']:.1e} ({row['sqnr_db']:.0f} dB)",
            quality,
            f"{row['torch_ms']:.3f} ms",
            f"{row['runtime_ms']:.3f} ms",
            f"{row['speedup']:.2f}x",
        )
    return table
