"""Real images with noise, for a diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data.draws import paired_order, stratified, stream
from aigc_calibration.data.expected import expected_arrays
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.subject import Subject
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.schedules import alphas_cumprod
from aigc_runtime.pipelines.denoiser import CLASS_LABELS, CONTEXT, SAMPLE, TIMESTEP
from aigc_runtime.pipelines.settings import DiffusionSettings

if TYPE_CHECKING:
    pass

__all__ = ["ImageData"]

STREAM = 3
"""Of random numbers; see `draws.stream`."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images with noise: x_t ~ q(x_t | x_0) (Ho et al. 2020, eq. 4), the timesteps stratified over all there are.

    Where the model has a class for none, every other point of a class is fed without it.

    Attributes:
        subject: the UNet.
        settings: of its pipeline.
        images: [N, C, H, W] float32 in [-1, 1].
        labels: [N] int64, for a model with classes.
        samples: points; images are taken in turn.
        batch: points at a time.
        seed: of noise, timesteps and order.
        notes: what the images were read from and what was done to them, for a stage's line.
    """

    subject: Subject
    settings: DiffusionSettings
    images: Array
    labels: Array | None = None
    samples: int = 256
    batch: int = 16
    seed: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_samples(self.samples, self.batch)
        if self.subject.interface.input(CONTEXT) is not None:
            raise CalibrationError(
                f"the model takes {CONTEXT}, which images do not have",
                hint=f"give an .npz: {expected_arrays(self.subject)}",
            )
        _check_images(self.images, self.settings.sample_shape)
        if self.settings.num_classes is not None:
            _check_labels(self.labels, len(self.images), self.settings.num_classes)

    @property
    def rows(self) -> int:
        """Number of rows: one for every point."""
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph."""
        settings = self.settings
        alpha_bar, rng = alphas_cumprod(settings.schedule), stream(self.seed, STREAM)
        times = stratified(self.samples, len(alpha_bar), rng)
        picks, without = self._picks(rng)
        order = paired_order(self.samples, rng)
        times, picks, without = times[order], picks[order], without[order]
        for first in range(0, self.samples, self.batch):
            some = slice(first, first + self.batch)
            t, pick = times[some], picks[some]
            a = alpha_bar[t][:, None, None, None]
            noise = rng.standard_normal(self.images[pick].shape)
            x = np.sqrt(a) * self.images[pick] + np.sqrt(1 - a) * noise
            feeds = {SAMPLE: x.astype(np.float32), TIMESTEP: t.astype(np.float32)}
            if self.labels is not None and settings.num_classes is not None:
                feeds[CLASS_LABELS] = self.labels[pick].astype(np.int64)
                if settings.null_class is not None:
                    feeds[CLASS_LABELS][without[some]] = settings.null_class
            yield feeds

    def _picks(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Choose the image of every point in random order, and whether it is fed without its class."""
        picks = rng.permutation(len(self.images))[np.arange(self.samples) % len(self.images)]
        if self.labels is not None:
            picks = picks[np.argsort(self.labels[picks], kind="stable")]
        order = rng.permutation(self.samples)
        return picks[order], (np.arange(self.samples) % 2 == 1)[order]


def _check_images(images: Array, shape: tuple[int, ...]) -> None:
    expected = f"expected [N, {', '.join(map(str, shape))}] float32 from -1 to 1, one or more"
    if images.ndim != 4 or images.shape[1:] != shape or not len(images) or images.dtype.kind != "f":
        raise CalibrationError(f"the images are {images.dtype} {list(images.shape)}", hint=expected)
    if not np.isfinite(images).all():
        raise CalibrationError("the images hold NaN or infinity", hint=f"check the files; {expected}")
    if images.min() == images.max():
        raise CalibrationError("the images are one constant", hint=f"give real images; {expected}")


def _check_labels(labels: Array | None, count: int, num_classes: int) -> None:
    expected = f"expected one for every image, from 0 to {num_classes - 1}"
    if labels is None or labels.shape != (count,):
        raise CalibrationError("the images have no class labels", hint=f"{expected}: one sub-folder per class")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise CalibrationError(f"the images' labels are {labels.min()} to {labels.max()}", hint=expected)
