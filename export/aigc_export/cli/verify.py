"""`aigc-export verify`."""

from __future__ import annotations

import click

from aigc_export.cli.model_options import original_option, tolerance_option
from aigc_export.cli.options import (
    CONTEXT,
    bundle_argument,
    emit_json,
    err_console,
    json_option,
    out_console,
    threads_option,
)
from aigc_export.cli.paths import TEXT_PATH
from aigc_export.cli.report_options import Reports, report_options
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export verify out/lm --junit parity.xml")
@bundle_argument
@original_option
@click.option("--checkpoint", type=TEXT_PATH, help="The weights it was made from. Default: where the manifest says.")
@click.option("--quality-samples", type=click.IntRange(min=0), help="Default: 200, of a large model fewer; 0: none.")
@tolerance_option("in place of the manifest's")
@click.option("--eval-data", type=TEXT_PATH, help="Your text or jsonl to evaluate on. Default: that of its export.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the fresh inputs.")
@click.option("--bisect", is_flag=True, help="If parity is missed, name the first node that diverges.")
@threads_option
@json_option
@report_options("verify", "bundle_path")
def verify(
    bundle_path: str,
    model: str | None,
    checkpoint: str | None,
    quality_samples: int | None,
    tolerance: tuple[str, ...],
    eval_data: str | None,
    seed: int,
    bisect: bool,
    threads: int | None,
    as_json: bool,
    reports: Reports,
) -> int:
    """Compare BUNDLE with PyTorch on fresh inputs: tensors, a generation, quality. Exit code 3 if it misses a limit.

    On a device without PyTorch, `aigc-run verify` compares with the reference stored in the bundle.
    """
    from aigc_export.parity.report import parity_table
    from aigc_export.recipes.tolerances import parse_limits
    from aigc_export.tools.verifier import verify_against_torch
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.io.jsonable import to_json

    with err_console().status(f"verify {bundle_path}"):
        found = verify_against_torch(
            Bundle.open(bundle_path),
            checkpoint=checkpoint,
            model=model,
            bisect=bisect,
            quality_samples=quality_samples,
            eval_data=eval_data,
            seed=seed,
            threads=threads,
            tolerance=parse_limits(tolerance),
        )
    reports.parity = found.report
    code = 0 if found.report.passed else 3
    if as_json:
        divergence = None if found.divergence is None else found.divergence.to_dict()
        facts = {"checkpoint": str(found.checkpoint), "notes": list(found.notes), "divergence": divergence}
        emit_json("aigc-export-verify/1", {**found.report.to_dict(), **facts, "tolerances": to_json(found.tolerances)})
        return code
    from rich.markup import escape

    console = err_console() if reports.on_stdout else out_console()
    console.print(parity_table(found.report))
    console.print(f"limits: {found.tolerances}", soft_wrap=True)
    for note in found.notes:
        console.print(f"[bold yellow]warning[/] {escape(printable(note))}", soft_wrap=True)
    for failure in found.report.failures[:10]:
        console.print(f"[red]missed[/] {escape(printable(failure))}", soft_wrap=True)
    if found.divergence is not None:
        console.print(printable(str(found.divergence)), soft_wrap=True, markup=False)
    return code
