"""Draw latents and classes as a GAN's pipeline draws them, and the styles and noise that a synthesis is fed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aigc_calibration.data import CalibrationData
from aigc_calibration.data.draws import stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.gan_engines import CLASS_LABELS, LATENTS, STYLES, GanEngines, noise_name
from aigc_runtime.pipelines.gan_styles import repeated_styles
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["GanData", "StyleData", "draw_noise"]

STREAM = 4
"""Of random numbers; see `draws.stream`."""
NOISE_STREAM = 9


def draw_noise(settings: GanSettings, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Draw noise for every input of it: standard normal, float32 [rows, 1, R, R]."""
    return {
        noise_name(n): rng.standard_normal((rows, 1, side, side), dtype=np.float32)
        for n, side in enumerate(settings.noise_sides)
    }


@dataclass(frozen=True, kw_only=True)
class GanData:
    """Standard normal latents, and the same number of each class, give or take one.

    Attributes:
        settings: of the pipeline.
        samples: latents.
        batch: latents at a time.
        seed: of latents and the order of classes; no pipeline's seed gives the same latents (`draws.stream`).
    """

    settings: GanSettings
    samples: int = 256
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.samples, self.batch)

    @property
    def rows(self) -> int:
        """Number of rows: one for every latent."""
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield latents, and classes where there are any."""
        settings, rng = self.settings, stream(self.seed, STREAM)
        names = rng.permutation(settings.num_classes or 1)
        # In the second round each class is in a place of the other parity, so that both halves have all classes.
        labels = np.concatenate([names, np.roll(names, 1 - len(names) % 2)])
        for first in range(0, self.samples, self.batch):
            count = min(self.batch, self.samples - first)
            feeds = {LATENTS: rng.standard_normal((count, settings.latent_size), dtype=np.float32)}
            if settings.num_classes is not None:
                feeds[CLASS_LABELS] = labels[np.arange(first, first + count) % len(labels)]
            yield feeds


@dataclass(frozen=True, kw_only=True)
class StyleData:
    """What an engine is fed that gives images: styles that PyTorch maps, or latents as they are, and noise.

    Attributes:
        latents: and classes.
        engines: PyTorch's.
        batch: images at a time, at most.
        seed: of the noise.
    """

    latents: CalibrationData
    engines: GanEngines
    batch: int
    seed: int = 0

    @property
    def samples(self) -> int:
        """Number of images."""
        return self.latents.samples

    @property
    def in_order(self) -> bool:
        """Whether the first samples need not be like the others."""
        return bool(getattr(self.latents, "in_order", False))

    @property
    def rows(self) -> int:
        """Number of rows: one for every image."""
        return self.latents.rows

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph."""
        settings, rng = self.engines.settings, stream(self.seed, NOISE_STREAM)
        for drawn in self.latents.batches(run):
            for first in range(0, len(drawn[LATENTS]), self.batch):
                feeds = {name: array[first : first + self.batch] for name, array in drawn.items()}
                if settings.style is not None:
                    w = self.engines.styles(feeds[LATENTS], feeds.get(CLASS_LABELS))
                    feeds = {STYLES: repeated_styles(w, settings.style.layers)}
                yield {**feeds, **draw_noise(settings, len(next(iter(feeds.values()))), rng)}
