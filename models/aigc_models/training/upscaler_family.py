"""Prepare the training of a generator that enlarges pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.data.images import parse_background
from aigc_models.data.kept_data import data_name
from aigc_models.data.photos import HELD_OUT_PHOTO, PhotoData, load_photos, sample_photos
from aigc_models.evaluation.evaluation import held_out_part
from aigc_models.evaluation.metrics import picture_psnr
from aigc_models.evaluation.quality import Metric
from aigc_models.families.degradation import BLUR_RADIUS, Degradation, degrade, parse_degradation
from aigc_models.training import recipes
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Measured, Prepared, loop_of
from aigc_models.training.upscaler_task import UpscalerTask, middle
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.png import encode_png, image_grid

__all__ = ["prepare_upscaler"]

MAX_SIDE = 512
"""Of the middle of a held-out photo that quality is measured on."""
SHOWN, SHOWN_SIDE = 4, 128


def prepare_upscaler(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare an SRVGGNetCompact on photos: scikit-learn's `china.jpg`, or the user's own.

    Raises:
        InputError: unusable photos or options.
    """
    scale = recipes.UPSCALE if options.scale is None else options.scale
    degradation = parse_degradation(options.degradation or "bicubic", scale)
    patch = options.size or recipes.UPSCALER_PATCH * scale
    least = max(2 * scale, BLUR_RADIUS + 1)
    if patch % scale or patch < least:
        nearest = max(-(-least // scale), round(patch / scale)) * scale
        raise InputError(
            f"size is {patch}, and the scale {scale}",
            hint=f"the patches' side must be a multiple of the scale, at least {least}: the nearest is {nearest}",
        )
    photos = _photos(data, options, patch)
    config, loop = recipes.upscaler_model(photos.channels, scale), loop_of(recipes.upscaler_loop(), options)
    task = UpscalerTask(
        config, loop, photos, degradation, patch, gan_weight=options.gan_weight or 0.0, device=options.device
    )

    def finish(model: nn.Module) -> Measured:
        pairs = [_enlarged(model, photo, degradation) for photo in photos.held_out[:samples]]
        metrics = tuple(
            Metric(name=name, value=sum(picture_psnr(pair[0], pair[i]) for pair in pairs) / len(pairs))
            for i, name in ((1, "psnr_db"), (2, "bicubic_psnr_db"))
        )
        name = f"scikit-learn's {HELD_OUT_PHOTO}" if data is None else held_out_part(data_name(data))
        return Measured(metrics=metrics, samples=len(pairs), data=name)

    return Prepared(
        task=task,
        loop=loop,
        record={"family": "upscaler", "model": config.to_dict(), "degradation": asdict(degradation)},
        notes=photos.notes,
        data_sha256=photos.digest(),
        finish=finish,
        sample=lambda model: _drawn(model, photos, degradation),
    )


def _photos(data: Path | str | None, options: TrainOptions, patch: int) -> PhotoData:
    if data is not None:
        background = None if options.background is None else parse_background(options.background)
        return load_photos(data, min_side=patch, channels=options.channels, background=background)
    if options.background is not None:
        raise InputError(f"background is {options.background!r}", hint="the built-in photos have none: leave it out")
    photos = sample_photos(options.channels or 3)
    if patch > min(min(photo.shape[1:]) for photo in photos.train + photos.held_out):
        raise InputError(f"size is {patch}", hint="the built-in photos are 640x427: give a smaller one, or your own")
    return photos


@torch.inference_mode()
def _enlarged(
    model: nn.Module, photo: Tensor, degradation: Degradation, side: int = MAX_SIDE
) -> tuple[Array, Array, Array]:
    """The middle of a photo, what the model makes of it made small, and what bicubic interpolation makes of that.

    All [C, H, W] in [0, 1], in steps of 1/255 as files hold them.
    """
    s = degradation.scale
    height, width = (min(n, side) // s * s for n in photo.shape[1:])
    target = middle(photo, height, width)
    small = degrade(target[None], degradation, torch.Generator().manual_seed(0))
    # With `antialias` its kernel is Keys' with a = -0.5, which the field compares with; else a = -0.75.
    bicubic = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    return target.numpy(), _in_8_bits(model(small)), _in_8_bits(bicubic)


def _in_8_bits(images: Tensor) -> Array:
    rounded: Array = ((images[0].clamp(0, 1) * 255).round() / 255).numpy()
    return rounded


def _drawn(model: nn.Module, photos: PhotoData, degradation: Degradation) -> dict[str, bytes]:
    """A row for each of a few photos: bicubic interpolation, the model, the photo."""
    side = min(SHOWN_SIDE, *(n for photo in photos.held_out[:SHOWN] for n in photo.shape[1:]))
    images: list[Array] = []
    for photo in photos.held_out[:SHOWN]:
        target, large, bicubic = _enlarged(model, photo, degradation, side)
        images += [bicubic, large, target]
    return {".png": encode_png(image_grid(2 * np.stack(images) - 1, columns=3))}
