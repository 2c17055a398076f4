"""Draw latents and classes as a GAN's pipeline draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data.draws import stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.gan import CLASS_LABELS, LATENTS
from aigc_runtime.pipelines.settings import GanSettings

if TYPE_CHECKING:
    pass

__all__ = ["GanData"]

STREAM = 4
"""Of random numbers; see `draws.stream`."""


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
        """Yield the feeds of the graph."""
        settings, rng = self.settings, stream(self.seed, STREAM)
        names = rng.permutation(settings.num_classes)
        # In the second round each class is in a place of the other parity, so that both halves have all classes.
        labels = np.concatenate([names, np.roll(names, 1 - len(names) % 2)])
        for first in range(0, self.samples, self.batch):
            count = min(self.batch, self.samples - first)
            latents = rng.standard_normal((count, settings.latent_size), dtype=np.float32)
            yield {LATENTS: latents, CLASS_LABELS: labels[np.arange(first, first + count) % len(labels)]}
