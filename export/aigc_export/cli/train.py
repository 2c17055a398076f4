"""`aigc-export train`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console
from aigc_export.cli.paths import REPLACED_FOLDER, TEXT_PATH


@click.command(
    context_settings=CONTEXT,
    epilog="Example: aigc-export train unet --data photos/ --size 32 -o checkpoints/photos",
)
@click.argument("model")
@click.option("-o", "--output", required=True, type=REPLACED_FOLDER, help="Checkpoint folder to write.")
@click.option(
    "--data",
    type=TEXT_PATH,
    help="Your text (file or folder), or a folder of pictures: one class, or a sub-folder per class.",
)
@click.option("--steps", type=int, help="Updates in all. Default: the recipe's own.")
@click.option("--batch-size", type=int, help="Rows per step. Default: the recipe's own.")
@click.option("--learning-rate", type=float, help="Its peak. Default: the recipe's own.")
@click.option("--size", type=int, help="Side of the square pictures. Default: the pictures' own.")
@click.option("--channels", type=int, help="1 (gray) or 3 (RGB). Default: the pictures' own.")
@click.option("--background", help="Put transparent pixels on white, black or #rrggbb. Default: refuse them.")
@click.option("--width", type=int, help="Channels at the pictures' own size. Default: the recipe's own.")
@click.option("--scale", type=int, help="Of an upscaler: how many times as wide and high. Default: 2.")
@click.option(
    "--degradation", help="Of an upscaler: bicubic or area, and blur, noise, jpeg, with commas. Default: bicubic."
)
@click.option("--gan-weight", type=float, help="Of an upscaler or vae: play against a patch discriminator. Default: 0.")
@click.option("--vae", type=TEXT_PATH, help="Of a latent_unet: the folder of a trained autoencoder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, data order and noise.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--save-every",
    default="5min",
    show_default=True,
    help="Save the state every so many steps (100) or so often (30s, 5min, 1h).",
)
@click.option("--sample-every", help="Draw samples every so many steps, or so often. Default: never.")
@click.option("--resume", is_flag=True, help="Go on from an interrupted run in the output folder.")
@json_option
def train(model: str, output: Path, data: str | None, as_json: bool, **options: Any) -> None:
    """Train MODEL and write a checkpoint with its measured quality.

    MODEL is lm, unet, gan, stylegan2, classifier, upscaler, vae or latent_unet.

    Ctrl-C and SIGTERM save the state: the same command with --resume goes on from it, bit for bit.
    """
    from aigc_export.cli.train_progress import TrainProgress
    from aigc_export.cli.train_stop import SignalStop
    from aigc_models.training.curve import CURVE_FILE, PLOT_FILE
    from aigc_models.training.every import parse_every
    from aigc_models.training.families import train_family
    from aigc_runtime.io.printable import printable
    from aigc_runtime.proof.paired import named

    console, err = err_console() if as_json else out_console(), err_console()

    def notify(sentence: str) -> None:
        console.print(printable(sentence), markup=False, soft_wrap=True)

    for name in ("save_every", "sample_every"):
        if options[name] is not None:
            options[name] = parse_every(name, options[name])
    with (
        SignalStop(output) as stop,
        TrainProgress(err, f"train {model}") as progress,
    ):
        report = train_family(model, output=output, data=data, on_step=progress, notify=notify, stop=stop, **options)
    if as_json:
        emit_json("aigc-export-train/1", {"output": str(output), **report})
        return
    for name, value in report["quality"].items():
        notify(f"{named(name, report['data'])}: {value:.4g} ({report['samples']:,} samples)")
    notify(f"wrote {output}")
    if find_spec("matplotlib") is None:
        notify(
            f"the loss curve is in {output / CURVE_FILE}; {PLOT_FILE} needs matplotlib: pip install 'aigc-export[plot]'"
        )
