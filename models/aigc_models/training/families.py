"""Train a family from start to checkpoint: data, task, loop, measured quality."""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from aigc_models.caller_state import callers_state
from aigc_models.data.kept_data import data_files, data_name
from aigc_models.training.curve import PLOT_FILE
from aigc_models.training.estimate import check_cost
from aigc_models.training.image_families import prepare_classifier, prepare_gan, prepare_stylegan2, prepare_unet
from aigc_models.training.latent_family import prepare_latent_unet
from aigc_models.training.loop import OnStep, Stop, Watch, train
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Prepared
from aigc_models.training.state import check_output
from aigc_models.training.text_family import prepare_lm
from aigc_models.training.upscaler_family import prepare_upscaler
from aigc_models.training.vae_family import prepare_vae
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.system.interrupts import check_interrupted

__all__ = ["FAMILIES", "SAMPLES", "train_family"]

SAMPLES = 1000
"""Windows or images on which a checkpoint's quality is measured."""

Notify = Callable[[str], None]
"""Called with a sentence about the data before the first step."""


@callers_state()
def train_family(
    name: str,
    *,
    output: Path | str,
    data: Path | str | None = None,
    on_step: OnStep | None = None,
    notify: Notify | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train one of `FAMILIES` and write its checkpoint with the measured quality beside it.

    Args:
        name: a key of `FAMILIES`.
        output: checkpoint folder.
        data: the user's text (file or folder) or pictures (a folder, or one with a folder per class); None takes the
            built-in data.
        on_step: called after every step.
        notify: called with what the data are, what was done to them and what the training costs.
        stop: asked after every step; where it has a signal, the state is saved and the run ends.
        options: of `TrainOptions`.

    Returns:
        What was written to quality.json.

    Raises:
        UnknownNameError: no such family.
        InputError: unusable data or options; said before the first step.
        TrainingError, TrainingInterruptedError, CheckpointError, OutputError: see `loop.train` and `save_checkpoint`.
    """
    if name not in FAMILIES:
        raise UnknownNameError("model to train", name, FAMILIES)
    chosen, folder = TrainOptions(**options), Path(output)
    chosen.require_only(name, TAKEN.get(name, ()))
    if data is not None:
        try:
            Path(data).stat()
        except OSError as err:
            absent = isinstance(err, (FileNotFoundError, NotADirectoryError)) or err.errno == errno.ELOOP
            message = (
                f"no such file or folder: {str(data)!r}" if absent else f"cannot read {str(data)!r}: {err.strerror}"
            )
            raise InputError(message, hint="data takes a text file or folder, or a folder of pictures") from err
    check_output(folder, resume=chosen.resume)
    torch.manual_seed(chosen.seed)
    prepared = FAMILIES[name](data, chosen, SAMPLES)
    if chosen.sample_every is not None and prepared.sample is None:
        raise InputError(f"sample_every is {chosen.sample_every}", hint=f"a {name} draws nothing: leave it out")
    notify = notify if notify is not None else _nothing
    for sentence in prepared.notes:
        notify(sentence)
    check_interrupted()
    notify(check_cost(prepared, chosen.device))
    watch = Watch(
        save_every=chosen.save_every,
        sample_every=chosen.sample_every,
        sample=prepared.sample,
        on_step=on_step,
        stop=stop,
        notify=notify,
    )
    shown = "built-in" if data is None else data_name(data)
    kept = {} if data is None else data_files(shown, prepared.text)
    run = {"data": shown, "data_sha256": prepared.data_sha256, "device": chosen.device, **chosen.of_data_and_loss()}
    state = train(
        prepared.task,
        prepared.loop,
        record=prepared.record,
        output=folder,
        resume=chosen.resume,
        run=run,
        watch=watch,
        kept=kept,
    )
    notify(f"{state.step:,} steps took {state.seconds:.0f} s; measuring the result")
    module = state.result.cpu()
    measured = prepared.finish(module)
    check_interrupted()
    report = {
        "quality": {metric.name: metric.value for metric in measured.metrics},
        "samples": measured.samples,
        "data": measured.data,
        "training": {
            **asdict(prepared.loop),
            **run,
            "notes": list(prepared.notes),
            "wall_seconds": round(state.seconds, 1),
            "cpu_seconds": round(state.cpu_seconds, 1),
            "parameters": sum(p.numel() for p in module.parameters()),
            "torch": metadata.version("torch"),
            "python": platform.python_version(),
        },
    }
    drawn = state.curve.png()
    files = state.files() if drawn is None else {**state.files(), PLOT_FILE: drawn}
    save_checkpoint(
        folder, module, {**prepared.record, **measured.record}, extra_json={"quality.json": report}, extra_files=files
    )
    return report


def _nothing(_sentence: str) -> None:
    """Ignore a sentence."""


FAMILIES: dict[str, Callable[[Path | str | None, TrainOptions, int], Prepared]] = {
    "lm": prepare_lm,
    "unet": prepare_unet,
    "gan": prepare_gan,
    "stylegan2": prepare_stylegan2,
    "classifier": prepare_classifier,
    "upscaler": prepare_upscaler,
    "vae": prepare_vae,
    "latent_unet": prepare_latent_unet,
}
TAKEN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("unet", "gan", "stylegan2", "classifier"), ("width",)),
    "upscaler": ("scale", "degradation", "gan_weight"),
    "vae": ("gan_weight",),
    "latent_unet": ("vae",),
}
"""Which of the options that some take a recipe takes."""
