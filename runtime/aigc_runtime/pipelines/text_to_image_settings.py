"""How a pipeline from text to pictures uses its engines: roles, tensors, and the settings that a manifest holds.

| role | inputs | outputs |
| --- | --- | --- |
| `text_encoder` | `input_ids` [B, T] int64 | `encoder_hidden_states` [B, T, X] |
| `text_encoder_2`, optional | the same | `encoder_hidden_states` [B, T, X'], `text_embeds` [B, P] |
| `unet` | `sample` [B, C, h, w], `timestep` [B], `encoder_hidden_states` | `model_output` [B, C, h, w] |
| `vae_decoder` | `latent` [B, C, h, w] | `image` [B, 3, f h, f w], about -1 to 1 |
| `vae_encoder`, optional | `image` [B, 3, f h, f w], -1 to 1 | `mean` and `std` [B, C, h, w] |

All are float32 but the ids. A UNet that a picture conditions takes C + 1 + C channels: the sample, the mask, and the
latents of what the mask leaves (Rombach et al. 2022, section 4.5). One that guidance was distilled into takes
`timestep_cond` [B, E] as well (Luo et al. 2023, section 4.1). One with a second text encoder takes the states of both
side by side, and `text_embeds` and `time_ids` [B, 6]: height and width before resizing, top and left of the crop,
height and width that are aimed at (Podell et al. 2023, sections 2.1 to 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from aigc_runtime.core.ranges import MAX_COUNT, check_range
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.samplers import SamplerConfig, fitting_steps
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.sampling_defaults import check_sampling
from aigc_runtime.pipelines.text_tensors import INPUT_IDS

__all__ = [
    "IMAGE",
    "INPUT_IDS",
    "LATENT",
    "MEAN",
    "STD",
    "TEXT_EMBEDS",
    "TEXT_ENCODER",
    "TEXT_ENCODER_2",
    "TIMESTEP_COND",
    "TIME_IDS",
    "UNET",
    "VAE_DECODER",
    "VAE_ENCODER",
    "PromptInfo",
    "TextToImageSettings",
]

TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER = "text_encoder", "unet", "vae_decoder", "vae_encoder"
TEXT_ENCODER_2 = "text_encoder_2"
"""The roles of the engines."""
LATENT, IMAGE, MEAN, STD = "latent", "image", "mean", "std"
TIMESTEP_COND, TEXT_EMBEDS, TIME_IDS = "timestep_cond", "text_embeds", "time_ids"
"""Tensors beside those of `denoiser`."""

MAX_LATENTS = 2**24
"""Numbers in the latents of one picture."""
MAX_LATENT_SCALE = 64
MAX_PROMPT_TOKENS = 4096
MAX_FACTOR = 1e6


@dataclass(frozen=True, kw_only=True)
class PromptInfo:
    """How prompts become tokens of a text encoder.

    Attributes:
        tokenizer: which, and of which file.
        vocab_size: ids that the text encoder knows.
        pad_token_id: fills up shorter prompts.
        multi_vector: first id and number of the ids that one token of a prompt stands for: a textual inversion of
            several vectors.
    """

    tokenizer: TokenizerInfo
    vocab_size: int
    pad_token_id: int
    multi_vector: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_range("vocab_size", self.vocab_size, 1, MAX_COUNT)
        check_range("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        for first, count in self.multi_vector:
            check_range("multi_vector: a number of ids", count, 2, self.vocab_size)
            check_range("multi_vector: an id", first, 0, self.vocab_size - count)


@dataclass(frozen=True, kw_only=True)
class TextToImageSettings:
    """How the pipeline from text to pictures uses its engines.

    Attributes:
        schedule: the noise schedule that the UNet was trained with.
        latent_channels: C.
        latent_size: (h, w) of the latents where a request does not say it.
        latent_scale: f, pixels along a side of a latent.
        scaling_factor: latents of the VAE times it, less the shift, are what the UNet sees.
        shift_factor: taken from the VAE's latents before they are scaled.
        tokenizer: which, and of which file.
        vocab_size: ids that the text encoder knows.
        prompt_tokens: T, with the tokens that begin and end a prompt.
        pad_token_id: fills up shorter prompts.
        default_sampler: one of `samplers.SAMPLERS`.
        sampler_config: how that one runs; the others run as the papers say.
        default_steps: sampling steps.
        default_guidance_scale: 1 and less mean no guidance, as in diffusers.
        takes_picture: whether the UNet takes a mask and the latents of a picture beside the sample, for inpainting.
        second: how prompts become tokens of a second text encoder; None where there is none.
        multi_vector: of the first text encoder, see `PromptInfo`.
        zero_negative: guidance leads away from zeros where a request has no negative text, in place of an empty text.
    """

    schedule: ScheduleConfig
    latent_channels: int
    latent_size: tuple[int, int]
    latent_scale: int
    scaling_factor: float
    tokenizer: TokenizerInfo
    vocab_size: int
    pad_token_id: int
    default_sampler: str
    default_steps: int
    default_guidance_scale: float
    shift_factor: float = 0.0
    prompt_tokens: int = 77
    sampler_config: SamplerConfig = field(default_factory=SamplerConfig)
    takes_picture: bool = False
    second: PromptInfo | None = None
    zero_negative: bool = False
    multi_vector: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if min(self.latent_channels, *self.latent_size) < 1 or math.prod(self.latent_shape) > MAX_LATENTS:
            raise ConfigError(
                f"latents of {list(self.latent_shape)}",
                hint=f"at least 1 each, at most {MAX_LATENTS:,} numbers in all",
            )
        check_range("latent_scale", self.latent_scale, 1, MAX_LATENT_SCALE)
        for name, value, low in (
            ("scaling_factor", self.scaling_factor, 1 / MAX_FACTOR),
            ("shift_factor", self.shift_factor, -MAX_FACTOR),
        ):
            if not low <= value <= MAX_FACTOR:  # NaN is neither
                raise ConfigError(f"{name} is {value:g}", hint=f"must be from {low:g} to {MAX_FACTOR:g}")
        check_range("prompt_tokens", self.prompt_tokens, 1, MAX_PROMPT_TOKENS)
        assert self.prompt_info  # which checks itself
        if self.schedule.learns_variance:
            raise ConfigError(
                f"schedule.variance_type is {self.schedule.variance_type!r}",
                hint="no model from text to pictures learns its variance: must be fixed",
            )
        check_sampling(
            self.schedule,
            sampler=self.default_sampler,
            config=self.sampler_config,
            steps=self.default_steps,
            guidance_scale=self.default_guidance_scale,
        )

    @property
    def prompt_info(self) -> PromptInfo:
        """How prompts become tokens of the first text encoder."""
        return PromptInfo(
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            pad_token_id=self.pad_token_id,
            multi_vector=self.multi_vector,
        )

    @property
    def prompt_infos(self) -> Mapping[str, PromptInfo]:
        """How prompts become tokens, by the role of the text encoder."""
        second = {} if self.second is None else {TEXT_ENCODER_2: self.second}
        return {TEXT_ENCODER: self.prompt_info, **second}

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """The files of the bundle that the tokenizers are in."""
        infos = self.prompt_infos.values()
        return tuple(dict.fromkeys(info.tokenizer.file for info in infos if info.tokenizer.file is not None))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the default latents."""
        return self.latent_channels, *self.latent_size

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the default picture, in pixels."""
        return self.latent_scale * self.latent_size[0], self.latent_scale * self.latent_size[1]

    @property
    def unet_channels(self) -> int:
        """Channels of what the UNet takes."""
        return 2 * self.latent_channels + 1 if self.takes_picture else self.latent_channels

    def fitting_steps(self, most: int) -> int:
        """The largest number of steps up to `most` in which the default sampler can run."""
        return fitting_steps(self.schedule, most, self.default_sampler, self.sampler_config)
