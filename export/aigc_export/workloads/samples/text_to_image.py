"""What each engine of a model from text to pictures is fed while the whole pipeline runs on prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from aigc_calibration.data.draws import stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.data.recorder import Recorder
from aigc_calibration.onnx_function import OnnxFunction
from aigc_export.workloads.samples.prompts import STREAM, photo_crops, rectangle_mask
from aigc_export.workloads.samples.upscale import CALIBRATION_PHOTO
from aigc_models.program import Part, Program
from aigc_models.torch_session import open_torch
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.denoiser import SAMPLE
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_settings import (
    IMAGE,
    INPUT_IDS,
    LATENT,
    MEAN,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    TextToImageSettings,
)

__all__ = ["LARGE_PROGRAM", "PromptData", "picture_arguments"]

STEPS = (10,)
"""Of the sampler, in turn for the prompts: a range is as wide at ten noise levels as at fifty."""
STEPS_OF_LARGE = (2, 3, 4, 5)
"""The same for the UNet of a program of so many parameters that a step takes seconds: each prompt has other noise
levels, and every second step is watched."""
LARGE_PROGRAM = 500_000_000
"""Parameters of all parts."""


@dataclass(frozen=True, kw_only=True)
class PromptData:
    """The feeds of one part: in PyTorch the other parts run, the graph itself in the place of this one.

    Only what comes before the part is run: a text encoder takes tokens alone, and a decoder what the UNet gives; that
    of a large program decodes photos, where there is an encoder. What was fed for a prompt is kept, and given again
    when the batches are asked for again.

    Attributes:
        program: from text to pictures.
        part: whose graph is calibrated.
        prompts: a picture is made of each.
        seed: of the noise, and of places in photos; no evaluation's seed gives the same.
        kept: what was fed for the first prompts.
    """

    program: Program
    part: Part
    prompts: tuple[str, ...]
    seed: int = 0
    kept: list[list[dict[str, Array]]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_samples(len(self.prompts), 1)

    @property
    def settings(self) -> TextToImageSettings:
        """Of the pipeline."""
        settings: TextToImageSettings = self.program.settings
        return settings

    @property
    def samples(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @cached_property
    def rows(self) -> int:
        """Number of rows that the part is fed: of a UNet, one for every evaluation and branch of the guidance."""
        if self.part.name != self.program.engines[UNET]:
            return self.samples
        return sum(len(fed[SAMPLE]) for feeds in self._fed(_no_results(self.part), 0, self.samples) for fed in feeds)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph, a prompt after the other."""
        for number in range(self.samples):
            if number == len(self.kept):
                self.kept.extend(self._fed(run, number, number + 1))
            yield from self.kept[number]

    def _fed(self, run: Any, first: int, end: int) -> Iterator[list[dict[str, Array]]]:
        """Yield what is fed for each of some prompts."""
        recorder = Recorder(run)
        opened = open_torch(self.program)
        sessions = {**opened.sessions, self.part.name: ArraySession(recorder, self.part.interface)}
        pipeline = TextToImagePipeline(
            OpenProgram(sessions, assets=self.program.assets), self.settings, self.program.engines
        )
        role = next((role for role, name in self.program.engines.items() if name == self.part.name), "")
        large = self.program.parameters >= LARGE_PROGRAM
        counts = STEPS_OF_LARGE if large else STEPS
        encoder = self.program.engines.get(VAE_ENCODER, "")
        decodes_photos = large and role == VAE_DECODER and bool(encoder)
        for number in range(first, end):
            prompt, steps, rng = self.prompts[number], counts[number % len(counts)], stream(self.seed, STREAM, number)
            if role in pipeline.prompts.tokens:
                sessions[self.part.name].run({INPUT_IDS: pipeline.prompts.tokens[role].encode([prompt])})
            elif role == VAE_ENCODER or decodes_photos:
                photo = photo_crops(CALIBRATION_PHOTO, self.settings.size, 1, int(rng.integers(2**31)))
                image = 2 * (photo.transpose(0, 3, 1, 2).astype(np.float32) / 255) - 1
                seen = sessions[encoder].run({IMAGE: image})
                if decodes_photos:
                    sessions[self.part.name].run({LATENT: seen[MEAN]})
            else:
                pipeline.generate(
                    prompt,
                    seed=int(rng.integers(2**63)),
                    steps=self.settings.fitting_steps(steps),
                    output="latents" if role == UNET else "images",
                    **picture_arguments(self.settings, CALIBRATION_PHOTO, rng),
                )
            records = recorder.take()
            yield records[number % 2 :: 2] if large and role == UNET else records


def picture_arguments(settings: TextToImageSettings, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of `generate` beside the prompt: a photo and a mask, for a UNet that takes them."""
    if not settings.takes_picture:
        return {}
    (image,) = photo_crops(name, settings.size, 1, int(rng.integers(2**31)))
    return {"image": image, "mask": rectangle_mask(settings.size, rng)}


def _no_results(part: Part) -> Any:
    """A graph that gives zeros: enough to count what it is fed."""
    (output,) = part.interface.outputs

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        sample = feeds[SAMPLE]
        return {output.name: np.zeros((len(sample), int(output.shape[1]), *sample.shape[2:]), np.float32)}

    return run
