"""`aigc-export export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from aigc_export.cli.engine_options import engine_options
from aigc_export.cli.model_options import (
    calibration_option,
    chosen_model,
    model_options,
    seed_option,
    target_option,
    tolerance_option,
)
from aigc_export.cli.options import (
    CONTEXT,
    emit_json,
    err_console,
    json_option,
    out_console,
    show_warnings,
    threads_option,
)
from aigc_export.cli.paths import PATH, REPLACED_FOLDER, TEXT_PATH, WRITTEN_PATH
from aigc_export.cli.report_options import Reports, report_options
from aigc_export.cli.search_options import print_search, search_options
from aigc_export.targets import DEFAULT_TARGET
from aigc_runtime.bundle.bundle import MANIFEST
from aigc_runtime.io.printable import printable


@click.command(
    context_settings=CONTEXT,
    epilog=f"Example: aigc-export export lm --target {DEFAULT_TARGET} --precision fp32 -o out/lm",
)
@click.argument("model")
@click.option("-o", "--output", required=True, type=REPLACED_FOLDER, help="Bundle folder to write.")
@target_option
@click.option("--precision", default="fp32", show_default=True, help="Of all parts, PART=PRECISION,..., or auto.")
@model_options
@calibration_option("in place of samples")
@click.option("--quality-samples", type=int, help="Text windows or images. Default: 200, or fewer; 0: none.")
@click.option(
    "--eval-data", type=TEXT_PATH, help="Your text or jsonl to evaluate on. Default: what the checkpoint keeps."
)
@click.option("--budget", "budgets", multiple=True, help="Quality to keep: 'ppl<=+2%', 'kl<=0.02'; may be repeated.")
@click.option("--allow-slower", is_flag=True, help="Publish what is quantized and takes longer than fp32 here.")
@click.option("--objective", help="Of --precision auto: latency (default), size or ops.")
@click.option("--jobs", type=click.IntRange(min=1), help="Of --precision auto: local processes. Default: 1.")
@click.option("--dask", help="Of --precision auto: address of a Dask scheduler, in place of --jobs.")
@click.option("--search-dir", type=WRITTEN_PATH, help="Journal and report. Default: OUTPUT.search.")
@tolerance_option("in place of the kind's")
@seed_option("inputs, calibration and judging")
@click.option("--bisect", is_flag=True, help="If parity is missed, name the first node that diverges.")
@click.option("--sign-key", type=PATH, help="Sign the bundle with this private key (PEM).")
@engine_options
@threads_option
@json_option
@report_options("export", "model")
def export(
    model: str,
    output: Path,
    target: str,
    precision: str,
    calibration: str | None,
    quality_samples: int | None,
    eval_data: str | None,
    budgets: tuple[str, ...],
    allow_slower: bool,
    objective: str | None,
    jobs: int | None,
    dask: str | None,
    search_dir: Path | None,
    tolerance: tuple[str, ...],
    seed: int,
    bisect: bool,
    sign_key: Path | None,
    threads: int | None,
    as_json: bool,
    build: dict[str, Any],
    requested: dict[str, Any],
    reports: Reports,
) -> None:
    """Take MODEL from PyTorch to a verified bundle, and say what each stage did.

    Nothing is published unless the engine is within every tolerance; exit code 3 says that it is not.
    """
    from aigc_export.cli.reporting import StageDisplay
    from aigc_export.line.exporter import ParityFailedError, export_model
    from aigc_export.line.signing import key_warning, load_signer
    from aigc_export.parity.report import parity_table
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.recipes.tolerances import parse_limits
    from aigc_models.sources import kind_of
    from aigc_runtime.bundle.bundle import check_destination
    from aigc_runtime.io.jsonable import to_json

    check_destination(output)
    signer = None if sign_key is None else load_signer(sign_key)
    key_warnings = [] if sign_key is None else show_warnings(key_warning(sign_key))
    searched = {
        "--budget": budgets,
        "--objective": objective,
        "--jobs": jobs,
        "--dask": dask,
        "--search-dir": search_dir,
    }
    chosen = chosen_model(model, requested)
    search = search_options(
        kind_of(chosen),
        precision,
        {k: v for k, v in searched.items() if v},
        folder=search_dir or _beside(output, ".search"),
        samples=quality_samples,
    )
    recipe = export_recipe(
        chosen,
        target=target,
        precision=precision,
        quality_samples=quality_samples,
        eval_data=eval_data,
        seed=seed,
        threads=threads,
        calibration=calibration,
        build=build,
        tolerance=parse_limits(tolerance),
        allow_slower=allow_slower,
        **requested,
        **search,
    )
    console = err_console() if as_json or reports.on_stdout else out_console()
    before = _identity(output)

    with StageDisplay(console, f"export {model}", bar=not as_json) as shown:
        try:
            result = export_model(
                recipe,
                output,
                bisect=bisect,
                stage=shown.stage,
                progress=shown.progress,
                sign=signer,
            )
        except ParityFailedError as err:
            console.print(parity_table(err.report))
            reports.parity = err.report
            raise
        except KeyboardInterrupt as err:
            published = _identity(output) != before
            err.add_note(f"{output} was published before that" if published else "nothing was published")
            raise
    reports.parity = result.report
    if as_json:
        emit_json(
            "aigc-export-export/1",
            {
                "bundle": str(output),
                "manifest_sha256": result.bundle.manifest_sha256,
                "signed_by": None if signer is None else signer.key_id,
                "size_bytes": result.bundle.size_bytes,
                "seconds": round(result.seconds, 3),
                "warnings": [*key_warnings, *result.warnings],
                "parity": result.report.to_dict(),
                "coverage": None if result.coverage is None else to_json(result.coverage),
                "search": None if result.search is None else to_json(result.search),
                "speed": None if result.speed is None else to_json(result.speed),
            },
        )
        return
    if result.search is not None:
        print_search(console, result.search)
    console.print(parity_table(result.report))
    size = f"{result.bundle.size_bytes / 1e6:.2f} MB in {result.seconds:.1f} s"
    console.print(printable(f"published {output}: {size}"), markup=False, soft_wrap=True)
    if signer is not None:
        console.print(f"signed by {signer.key_id}")


def _beside(output: Path, suffix: str) -> Path:
    """Name a folder beside the bundle; the path is made absolute, since `.` has no name to extend."""
    whole = Path(os.path.abspath(output))  # noqa: PTH100 - as in `atomic_directory`
    return whole.with_name(f"{whole.name}{suffix}")


def _identity(bundle: Path) -> tuple[int, int] | None:
    """Identify the manifest that lies there, if there is one: every export writes a new file."""
    try:
        status = (bundle / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
