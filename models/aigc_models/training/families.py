"""Train a family from start to checkpoint: data, task, loop, measured quality."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aigc_models.checkpoint import save_checkpoint
from aigc_models.classifier import Classifier
from aigc_models.gan import Generator, hinge_loss
from aigc_models.lm import TransformerLM
from aigc_models.metrics import class_accuracy
from aigc_models.quality import Metric, measure, text_quality
from aigc_models.spec import ExportSpec
from aigc_models.specs import gan_spec, lm_spec, unet_spec
from aigc_models.torch_session import TorchSession
from aigc_models.training import recipes
from aigc_models.training.image_data import ImageData, digits, load_images
from aigc_models.training.loop import LoopConfig, Progress, train
from aigc_models.training.tasks import ClassifierTask, GanTask, LMTask, UNetTask, reestimate_batch_norm
from aigc_models.training.text_data import TextData, load_text, standard_library_text
from aigc_models.unet import UNet
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.settings import to_json

__all__ = ["FAMILIES", "SAMPLES", "train_family"]

SAMPLES = 1000
"""Windows or images on which a checkpoint's quality is measured."""


def train_family(
    name: str,
    *,
    output: Path | str,
    data: Path | str | None = None,
    steps: int | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train one of `FAMILIES` and write its checkpoint with the measured quality beside it.

    Args:
        name: `lm`, `unet`, `gan` or `classifier`.
        output: checkpoint folder.
        data: the user's text (file or folder) or images (a folder per class); None takes the built-in data.
        steps: None takes the recipe's own.
        resume: go on from an interrupted run's state in `output`.
        seed: of weights, data order and noise.
        progress: called after every step.

    Returns:
        What was written to quality.json.

    Raises:
        UnknownNameError: no such family.
        InputError: unusable data, steps or seed.
        TrainingError, CheckpointError, OutputError: see `loop.train` and `save_checkpoint`.
    """
    if name not in FAMILIES:
        raise UnknownNameError("model to train", name, FAMILIES)
    if steps is not None and steps < 1:
        raise InputError(f"steps is {steps}", hint="must be at least 1")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}", hint="must be from 0 to 2**63 - 1")
    if data is not None and not Path(data).exists():
        raise InputError(f"no such file or folder: {str(data)!r}", hint="--data takes a text file or folder, or images")
    torch.manual_seed(seed)
    wall, cpu = time.perf_counter(), time.process_time()
    module, config, measured, judged, loop = FAMILIES[name](data, steps, seed, Path(output), resume, progress)
    report = {
        "quality": measured,
        "samples": judged if measured else 0,
        "training": {
            **asdict(loop),
            "data": str(Path(data).name) if data is not None else "built-in",
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "parameters": sum(p.numel() for p in module.parameters()),
            "torch": metadata.version("torch"),
            "python": platform.python_version(),
        },
    }
    save_checkpoint(output, module, config, extra_json={"quality.json": report})
    return report


Trained = tuple[nn.Module, dict[str, Any], dict[str, float], int, LoopConfig]
"""Module, config.json, metrics, the number of windows or images they were measured on, loop."""
Family = Callable[[Path | str | None, int | None, int, Path, bool, Progress | None], Trained]


def _values(metrics: tuple[Metric, ...]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def _quality(spec: ExportSpec, data: Path | str | None) -> dict[str, float]:
    """The digits' metrics; a user's own images have no judge here."""
    return _values(measure(TorchSession(spec), spec.settings, samples=SAMPLES)) if data is None else {}


def _loop(make: Callable[..., LoopConfig], steps: int | None, seed: int) -> LoopConfig:
    default = make()
    return LoopConfig(**{**asdict(default), "steps": steps or default.steps, "seed": seed})


def _train_lm(
    data: Path | str | None, steps: int | None, seed: int, output: Path, resume: bool, progress: Progress | None
) -> Trained:
    text: TextData = standard_library_text() if data is None else load_text(data)
    config, loop = recipes.lm_model(), _loop(recipes.lm_loop, steps, seed)
    task = LMTask(config, loop, text.train, recipes.WINDOW)
    record = {"family": "lm", "model": config.to_dict()}
    model = train(task, loop, model_config=record, output=output, resume=resume, progress=progress)
    assert isinstance(model, TransformerLM)
    session = TorchSession(lm_spec(model, tokenizer={"kind": "bytes"}))
    return model, record, _values(text_quality(session, text.held_out, samples=SAMPLES, seed=0)), SAMPLES, loop


def _images(data: Path | str | None, size: int, channels: int) -> ImageData:
    return digits(size) if data is None else load_images(data, size=size, channels=channels)


def _train_unet(
    data: Path | str | None, steps: int | None, seed: int, output: Path, resume: bool, progress: Progress | None
) -> Trained:
    base = recipes.unet_model()
    images = _images(data, base.sample_size, base.in_channels)
    classes = len(images.class_names)
    config = type(base)(**{**asdict(base), "num_class_embeds": classes + 1, "null_class": classes})
    schedule, loop = recipes.digits_schedule(), _loop(recipes.unet_loop, steps, seed)
    task = UNetTask(config, loop, images, schedule, recipes.CONDITION_DROPOUT)
    record = {
        "family": "unet",
        "model": config.to_dict(),
        "schedule": to_json(schedule),
        "class_names": list(images.class_names),
    }
    model = train(task, loop, model_config=record, output=output, resume=resume, progress=progress)
    assert isinstance(model, UNet)
    return model, record, _quality(unet_spec(model, schedule), data), SAMPLES, loop


def _train_gan(
    data: Path | str | None, steps: int | None, seed: int, output: Path, resume: bool, progress: Progress | None
) -> Trained:
    base = recipes.gan_model()
    images = _images(data, base.image_size, base.image_channels)
    classes = len(images.class_names)
    config = type(base)(**{**asdict(base), "num_classes": classes})
    judge = recipes.discriminator_model()
    judge = type(judge)(**{**asdict(judge), "num_classes": classes})
    loop = _loop(recipes.gan_loop, steps, seed)
    task = GanTask(config, judge, loop, images, hinge_loss)
    record = {"family": "gan", "model": config.to_dict(), "class_names": list(images.class_names)}
    model = train(task, loop, model_config=record, output=output, resume=resume, progress=progress)
    assert isinstance(model, Generator)
    reestimate_batch_norm(model, batches=50, seed=seed)
    return model, record, _quality(gan_spec(model), data), SAMPLES, loop


def _train_classifier(
    data: Path | str | None, steps: int | None, seed: int, output: Path, resume: bool, progress: Progress | None
) -> Trained:
    base = recipes.classifier_model()
    images = _images(data, base.image_size, base.image_channels)
    config = type(base)(**{**asdict(base), "num_classes": len(images.class_names)})
    loop = _loop(recipes.classifier_loop, steps, seed)
    record = {"family": "classifier", "model": config.to_dict(), "class_names": list(images.class_names)}
    task = ClassifierTask(config, loop, images)
    model = train(task, loop, model_config=record, output=output, resume=resume, progress=progress)
    assert isinstance(model, Classifier)
    accuracy = class_accuracy(model, images.held_out.numpy(), images.held_out_labels.numpy())
    return model, record, {"held_out_accuracy": accuracy}, len(images.held_out), loop


FAMILIES: dict[str, Family] = {
    "lm": _train_lm,
    "unet": _train_unet,
    "gan": _train_gan,
    "classifier": _train_classifier,
}
