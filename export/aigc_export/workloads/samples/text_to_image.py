"""What each engine of a model from text to pictures is fed while the whole pipeline runs on prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from aigc_runtime.core.session import Session
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

__all__ = ["HEIGHT", "LARGE_PROGRAM", "WIDTH", "PromptData", "picture_arguments"]

STEPS = (10,)
"""Of the sampler, in turn for the prompts: a range is as wide at ten noise levels as at fifty."""
STEPS_OF_LARGE = (2, 3, 4, 5)
"""The same for the UNet of a program of so many parameters that a step takes seconds: each prompt has other noise
levels, and every second step is watched."""
LARGE_PROGRAM = 500_000_000
"""Parameters of all parts."""
PHOTOS = 2
"""That encoder and decoder of such a program see for each prompt."""

HEIGHT, WIDTH = "height", "width"


@dataclass(frozen=True, kw_only=True)
class PromptData:
    """The feeds of one part: in PyTorch the other parts run, the graph itself in the place of this one.

    Only what comes before the part is run: a text encoder takes tokens alone, and a decoder what the UNet gives. Of a
    large program, encoder and decoder see two photos for each prompt, of half the side where they take any; the decoder
    sees noise in the place of every other one, as in its cases of parity. What was fed for a prompt is kept, and given
    again when the batches are asked for again.

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
            return self.samples * (PHOTOS if self._sees_photos else 1)
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
        role, large = self._role, self._is_large
        counts = STEPS_OF_LARGE if large else STEPS
        for number in range(first, end):
            prompt, steps, rng = self.prompts[number], counts[number % len(counts)], stream(self.seed, STREAM, number)
            if role in pipeline.prompts.tokens:
                sessions[self.part.name].run({INPUT_IDS: pipeline.prompts.tokens[role].encode([prompt])})
            elif role == VAE_ENCODER or self._sees_photos:
                for place in range(PHOTOS if large else 1):
                    self._see_photo(sessions, rng, as_noise=place % 2 == 1)
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

    @property
    def _role(self) -> str:
        return next((role for role, name in self.program.engines.items() if name == self.part.name), "")

    @property
    def _is_large(self) -> bool:
        return self.program.parameters >= LARGE_PROGRAM

    @property
    def _sees_photos(self) -> bool:
        """Whether it is an encoder, or a decoder, of a large program with both."""
        return self._is_large and VAE_ENCODER in self.program.engines and self._role in (VAE_ENCODER, VAE_DECODER)

    def _see_photo(self, sessions: Mapping[str, Session], rng: np.random.Generator, *, as_noise: bool) -> None:
        """Feed the part a photo, or what the encoder makes of it; a decoder `as_noise` what a UNet begins with."""
        settings, (height, width) = self.settings, self._photo_size(sessions)
        photo = photo_crops(CALIBRATION_PHOTO, (height, width), 1, int(rng.integers(2**31)))
        if self._role == VAE_DECODER and as_noise:
            shape = (1, settings.latent_channels, height // settings.latent_scale, width // settings.latent_scale)
            noise = rng.standard_normal(shape, dtype=np.float32) / np.float32(settings.scaling_factor)
            sessions[self.part.name].run({LATENT: noise + np.float32(settings.shift_factor)})
            return
        image = 2 * (photo.transpose(0, 3, 1, 2).astype(np.float32) / 255) - 1
        latents = sessions[self.program.engines[VAE_ENCODER]].run({IMAGE: image})[MEAN]
        if self._role == VAE_DECODER:
            sessions[self.part.name].run({LATENT: latents})

    def _photo_size(self, sessions: Mapping[str, Session]) -> tuple[int, int]:
        """(H, W) of a photo: of a large program half of each side, where encoder and decoder take it."""
        settings = self.settings
        if not self._is_large:
            return settings.size
        coder = [sessions[self.program.engines[role]].interface for role in (VAE_DECODER, VAE_ENCODER)]
        latents, pixels = ([one.dim(HEIGHT), one.dim(WIDTH)] for one in coder)
        found = []
        for own, latent, pixel in zip(settings.latent_size, latents, pixels, strict=True):
            half = own if latent is None else latent.nearest(own // 2)
            side = settings.latent_scale * half
            found.append(side if pixel is not None and pixel.nearest(side) == side else settings.latent_scale * own)
        return found[0], found[1]


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
