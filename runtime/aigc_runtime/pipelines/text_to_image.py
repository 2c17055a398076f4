"""Pictures from texts: text encoders, a UNet in the loop of a sampler, and the decoder of an autoencoder.

Shapes: N pictures, C channels of a latent, h and w its sides, f pixels along a side of a latent, H = f h, W = f w.

Each picture has a generator of its own, from which all of its noise comes: the picture of a seed is that of diffusers
with `torch.Generator().manual_seed(seed)`, however many are made together. No filter looks at the pictures.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.samplers import Denoise, sample
from aigc_runtime.io.png import to_uint8
from aigc_runtime.pipelines.arguments import batch_bounds, chunks, require_tensors
from aigc_runtime.pipelines.denoiser import CONTEXT, MODEL_OUTPUT, SAMPLE, TIMESTEP, Denoiser
from aigc_runtime.pipelines.kind import Roles, require_roles
from aigc_runtime.pipelines.picture_start import EncodedPicture, begin, draw_rows
from aigc_runtime.pipelines.prompt_encoder import PicturePrompt, PromptEncoder, Seen
from aigc_runtime.pipelines.sampling import Cancel, Progress, StepCounter, run_steps
from aigc_runtime.pipelines.text_to_image_request import SIZES, Output, PictureRequest, make_request
from aigc_runtime.pipelines.text_to_image_settings import (
    IMAGE,
    LATENT,
    MEAN,
    STD,
    TEXT_EMBEDS,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TIME_IDS,
    TIMESTEP_COND,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    TextToImageSettings,
)
from aigc_runtime.pipelines.vae import decode, encode

__all__ = ["TextToImagePipeline"]

_LOG = logging.getLogger(__name__)

Preview = Callable[[int, Array], None]
"""Called as preview(step, latents) after every step of a group of pictures, with its latents [n, C, h, w]."""

PIXELS_AT_ONCE = 2**18
"""Of the pictures that go through the UNet together, as far as single pictures allow: one of 512 x 512, whose attention
alone takes half a GiB.
"""


class TextToImagePipeline:
    """Makes pictures from texts.

    Args:
        program: with the engines of `text_to_image_settings`.
        settings: schedule, sizes and defaults.
        roles: which engine is which.

    Raises:
        ConfigError: other roles, or engines with other inputs, outputs or sizes, or that do not belong together.
    """

    def __init__(self, program: OpenProgram, settings: TextToImageSettings, roles: Roles) -> None:
        encoders = (TEXT_ENCODER,) if settings.second is None else (TEXT_ENCODER, TEXT_ENCODER_2)
        needed = (*encoders, UNET, VAE_DECODER)
        require_roles("text_to_image", roles, needed, (*needed, VAE_ENCODER))
        self.program, self.settings = program, settings
        self._engines = dict(roles)
        self.unet = self._session(UNET)
        self.decoder = self._session(VAE_DECODER)
        self.distilled = self.unet.interface.input(TIMESTEP_COND) is not None
        self._check_engines()
        self.prompts = PromptEncoder(program, settings, roles, self.unet)

    def _session(self, role: str) -> Session:
        return self.program.session(self._engines[role])

    @property
    def encodes_pictures(self) -> bool:
        """Whether requests may begin with a picture."""
        return VAE_ENCODER in self._engines

    def _check_engines(self) -> None:
        settings, c = self.settings, self.settings.latent_channels
        taken = {spec.name for spec in self.unet.interface.inputs}
        sizes = {TIMESTEP_COND: None, TEXT_EMBEDS: None, **({TIME_IDS: SIZES} if TEXT_EMBEDS in taken else {})}
        extra = {name: ("float32", (None, size)) for name, size in sizes.items() if name in (*taken, TIME_IDS)}
        require_tensors(
            self.unet,
            inputs={
                SAMPLE: ("float32", (None, settings.unet_channels, None, None)),
                TIMESTEP: ("float32", (None,)),
                CONTEXT: ("float32", (None, None, None)),
                **extra,
            },
            outputs={MODEL_OUTPUT: ("float32", (None, c, None, None))},
        )
        require_tensors(
            self.decoder,
            inputs={LATENT: ("float32", (None, c, None, None))},
            outputs={IMAGE: ("float32", (None, 3, None, None))},
        )
        if self.encodes_pictures:
            encoder = self._session(VAE_ENCODER)
            found = {spec.name for spec in encoder.interface.outputs}
            latents = dict.fromkeys((MEAN, *({STD} & found)), ("float32", (None, c, None, None)))
            require_tensors(encoder, inputs={IMAGE: ("float32", (None, 3, None, None))}, outputs=latents)
        elif settings.takes_picture:
            raise ConfigError(
                f"the UNet takes a picture, and the program has no {VAE_ENCODER!r}", hint="export the model again"
            )

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> TextToImagePipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        prompt_2: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        negative_2: str | Sequence[str] | None = None,
        count: int = 1,
        seed: int | Sequence[int] = 0,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        image: Array | None = None,
        mask: Array | None = None,
        strength: float | None = None,
        original_size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        tile: int | None = None,
        output: Output = "pictures",
        progress: Progress | None = None,
        preview: Preview | None = None,
        cancel: Cancel | None = None,
    ) -> Array:
        """Make pictures.

        Args:
            prompt: what is to be seen; one, or several.
            prompt_2: what a second text encoder reads in place of the prompt; one for all, or one for each. None and an
                empty text take the prompt, as in diffusers.
            negative: what guidance leads away from; one for all, or one for each prompt. None is an empty text, or
                nothing at all where the model was trained so (`zero_negative`).
            negative_2: what a second text encoder reads in place of it.
            count: pictures of each prompt.
            seed: of the first picture, the next ones having the next numbers; or one for each picture.
            size: (H, W), multiples of f; None takes the model's own, or that of the image.
            steps: sampling steps; None takes the bundle's default, as for the next three.
            sampler: one of `aigc_runtime.generation.samplers.SAMPLERS`. The bundle's default runs as its
                `sampler_config` says, others as the papers do.
            eta: share of fresh noise in DDIM, 0 to 1; the other samplers take none.
            guidance_scale: w of classifier-free guidance, eps = eps_negative + w (eps_prompt - eps_negative); 1 and
                less mean none, as in diffusers. A model that guidance was distilled into takes it as an input.
            guidance_rescale: how far the guided output is brought back to the deviation of that of the prompt, 0 to 1
                (Lin et al. 2023, section 3.4).
            image: [H, W, 3] uint8, that the pictures begin with.
            mask: [H, W] uint8 or bool, white where the image is painted anew; what is black stays, as far as the
                autoencoder gives it back.
            strength: how much of the image is given up: the share of the steps that are taken, above 0 and at most 1;
                None takes 0.8, and 1 with a mask.
            original_size: (H, W) that the picture is to look as if it had before it was resized, for a model that sees
                sizes; None takes that of the picture.
            crop: (top, left) that it is to look cropped at, for such a model; None takes (0, 0).
            target_size: (H, W) that it is to look made for, for such a model; None takes that of the picture.
            tile: side of the tiles that latents are decoded in; 0 means none, None chooses by their size.
            output: `pictures` are uint8 [N, H, W, 3]. `images` are float32 [N, 3, H, W] as the decoder gives them,
                about -1 to 1; `latents` are float32 [N, C, h, w] as the sampler does, and nothing is decoded.
            progress: called as progress(step, steps) after every step; pictures are made one group after the other, and
                the steps of all groups are counted.
            preview: called as preview(step, latents) after every step of a group.
            cancel: asked before every step.

        Returns:
            As `output` says.

        Raises:
            InputError: a bad argument; says which and what is allowed.
            CancelledError: `cancel` said so.
            EngineError: an engine failed, or gave NaN.
        """
        request = self.request(
            prompt,
            prompt_2=prompt_2,
            negative=negative,
            negative_2=negative_2,
            count=count,
            seed=seed,
            size=size,
            steps=steps,
            sampler=sampler,
            eta=eta,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            image=image,
            mask=mask,
            strength=strength,
            original_size=original_size,
            crop=crop,
            target_size=target_size,
            tile=tile,
            output=output,
        )
        for note in self.notes(request.texts):
            _LOG.warning("%s", note)
        contexts = self.prompts.encode(request.texts)
        latents = self._sample(request, contexts, self._encoded(request), progress, preview, cancel)
        if request.output == "latents":
            return latents
        settings = self.settings
        unscaled = latents / np.float32(settings.scaling_factor) + np.float32(settings.shift_factor)
        images = decode(self.decoder, unscaled, settings.latent_scale, request.tile)
        self.program.release(self._engines[VAE_DECODER])
        return images if request.output == "images" else to_uint8(images).transpose(0, 2, 3, 1)

    def request(self, prompt: str | Sequence[str], **arguments: Any) -> PictureRequest:
        """Check what `generate` is asked for by arguments of that name; nothing is run.

        Raises:
            InputError: as `generate` does.
        """
        return make_request(
            self.settings,
            self.unet.interface,
            self.decoder,
            encodes_pictures=self.encodes_pictures,
            distilled=self.distilled,
            prompt=prompt,
            **arguments,
        )

    def notes(self, prompts: Sequence[PicturePrompt]) -> tuple[str, ...]:
        """What the text encoders do not see of prompts, a sentence for each that is too long."""
        return self.prompts.notes(prompts)

    def _encoded(self, request: PictureRequest) -> EncodedPicture:
        """What the autoencoder makes of the request's picture, as far as the UNet needs it."""
        given = request.given
        if given is None:
            return EncodedPicture()
        session = self._session(VAE_ENCODER)
        draws = any(spec.name == STD for spec in session.interface.outputs)
        whole = encode(session, given.picture) if request.mixes_picture else None
        left = encode(session, given.left) if self.settings.takes_picture else None
        self.program.release(self._engines[VAE_ENCODER])
        return EncodedPicture(whole=whole, left=left, draws=draws)

    def _sample(
        self,
        request: PictureRequest,
        contexts: Mapping[PicturePrompt, Seen],
        encoded: EncodedPicture,
        progress: Progress | None,
        preview: Preview | None,
        cancel: Cancel | None,
    ) -> Array:
        """Latents of all pictures, a group at a time."""
        (least, most), levels = batch_bounds(self.unet, SAMPLE), request.sampling.levels
        runs = 2 if request.guided else 1
        at_once = max(1, PIXELS_AT_ONCE // math.prod(request.size))
        if most is not None:
            at_once = max(1, min(at_once, most // runs))
        at_once = max(at_once, -(-least // runs))
        groups = list(chunks(request.count, at_once))
        counter = StepCounter(len(groups) * levels.steps, progress, cancel)
        latents: list[Array] = []
        for group in groups:
            count = group.stop - group.start
            # An engine may take no fewer rows: the last picture is made several times then.
            rows = [*range(group.start, group.stop), *[group.stop - 1] * (at_once - count if least > 1 else 0)]
            seen = None if preview is None else partial(_show, preview, levels.steps, count, itertools.count(1))
            latents.append(self._sample_rows(request, contexts, encoded, rows, counter, most, seen)[:count])
        self.program.release(self._engines[UNET])
        return np.concatenate(latents)

    def _sample_rows(
        self,
        request: PictureRequest,
        contexts: Mapping[PicturePrompt, Seen],
        encoded: EncodedPicture,
        rows: list[int],
        counter: StepCounter,
        most: int | None,
        seen: Callable[[Array], None] | None,
    ) -> Array:
        settings, sampling = self.settings, request.sampling
        generators = [TorchGenerator(request.seeds[row]) for row in rows]
        start = begin(request, encoded, settings, generators)
        beside = (
            {} if request.sizes is None else {TIME_IDS: np.tile(np.array(request.sizes, np.float32), (len(rows), 1))}
        )
        conditions = {**_stacked(contexts, [request.prompts[row] for row in rows]), **beside}
        null = None
        if request.zero_negative:
            null = {name: np.zeros_like(array) for name, array in conditions.items()} | beside
        elif request.negatives is not None:
            null = {**_stacked(contexts, [request.negatives[row] for row in rows]), **beside}
        if self.distilled:
            conditions[TIMESTEP_COND] = np.repeat(self._guidance_embedding(request.scale), len(rows), axis=0)
        denoise: Denoise = Denoiser(
            self.unet,
            settings.schedule,
            start.levels,
            count=len(rows),
            conditions=conditions,
            null=null,
            scale=request.scale,
            rescale=request.rescale,
            most=most,
            beside=start.beside,
        )
        if start.keeps is not None:
            denoise = start.keeps.around(denoise, start.levels)
        fresh = partial(draw_rows, generators)
        run = sample(sampling.sampler, denoise, start.x, start.levels, fresh, sampling.config)
        x = run_steps(run, start.levels.steps, counter, seen)
        return x if start.keeps is None else start.keeps.at_the_end(x)

    def _guidance_embedding(self, scale: float) -> Array:
        """The scale of guidance as a distilled model takes it, [1, E]: sines and cosines of w (Luo et al. 2023)."""
        spec = self.unet.interface.input(TIMESTEP_COND)
        assert spec is not None
        return guidance_embedding(scale, int(spec.shape[1]))


def _stacked(contexts: Mapping[PicturePrompt, Seen], prompts: Sequence[PicturePrompt]) -> dict[str, Array]:
    """What the UNet sees of each row's prompt, by the name of its input."""
    return {name: np.stack([contexts[prompt][name] for prompt in prompts]) for name in contexts[prompts[0]]}


def guidance_embedding(scale: float, size: int) -> Array:
    """Sines and cosines of 1,000 w' at frequencies from 1 to 1 / 10,000, [1, E], with w' = w - 1 as in diffusers."""
    half = size // 2
    frequency = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000) / max(1, half - 1)))
    angle = np.float32(1000 * (scale - 1)) * frequency
    embedding = np.zeros((1, size), dtype=np.float32)
    embedding[0, :half], embedding[0, half : 2 * half] = np.sin(angle), np.cos(angle)
    return embedding


def _show(preview: Preview, steps: int, count: int, numbers: Iterator[int], x: Array) -> None:
    """Hand a copy on: the sampler goes on from its own."""
    preview((next(numbers) - 1) % steps + 1, x[:count].copy())
