"""`aigc-export train`."""

from __future__ import annotations

from pathlib import Path

import click

from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console


@click.command(
    context_settings=CONTEXT,
    epilog="Example: aigc-export train lm --data my-texts/ --steps 2000 -o checkpoints/my-lm",
)
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to write.")
@click.option("--data", type=click.Path(), help="Your text (file or folder) or images (a folder per class).")
@click.option("--steps", type=int, help="Updates in all. Default: the recipe's own.")
@click.option("--resume", is_flag=True, help="Go on from an interrupted run in the output folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, data order and noise.")
@json_option
def train(
    model: str, output: Path, data: str | None, steps: int | None, resume: bool, seed: int, as_json: bool
) -> None:
    """Train MODEL (lm, unet, gan or classifier) and write a checkpoint with its measured quality."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from aigc_models.training.families import train_family

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err_console()) as bar:
        task = bar.add_task(f"train {model}", total=None)

        def progress(step: int, total: int, losses: dict[str, float]) -> None:
            shown = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
            bar.update(task, completed=step, total=total, description=f"train {model}: {shown}")

        report = train_family(model, output=output, data=data, steps=steps, resume=resume, seed=seed, progress=progress)
    if as_json:
        emit_json({"output": str(output), **report})
        return
    console = out_console()
    for name, value in report["quality"].items():
        console.print(f"{name}: {value:.4g}")
    console.print(f"wrote {output}")
