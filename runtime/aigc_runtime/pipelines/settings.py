"""How each kind of pipeline uses its engine: the settings that a manifest holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aigc_runtime.core.ranges import MAX_COUNT, check_range
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.samplers import SamplerConfig, fitting_steps
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.class_names import check_class_names
from aigc_runtime.pipelines.sampling_defaults import check_sampling

__all__ = ["DiffusionSettings", "GanSettings", "StyleSettings", "TextSettings"]

MAX_SAMPLE = 2**28
"""Numbers in one sample: 1 GiB of float32."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How the text pipeline uses the engine.

    Attributes:
        tokenizer: which, and of which file.
        vocab_size: width of the logits.
        context_length: most tokens, prompt and generated together.
        bos_token_id: the token that begins a text; None where there is none. The byte tokenizer puts it in front of
            every text; a tokenizer of a file says itself what it puts where.
        eos_token_ids: the tokens that end a text; empty where none does.
        pad_token_id: the token that fills the left of shorter rows.
        sampling: how tokens are chosen where a request does not say it.
        recompute_at: steps beyond which all of a row is read again once, for a model that sees the first steps another
            way then; None for a model that never does.
        chat: how a chat becomes a prompt; None for a model without a chat template.
        stop: texts before which a text ends where a request does not name its own.
    """

    tokenizer: TokenizerInfo
    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    bos_token_id: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    recompute_at: int | None = None
    chat: ChatInfo | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("vocab_size", self.vocab_size, 1, MAX_COUNT)
        check_range("context_length", self.context_length, 1, MAX_COUNT)
        check_range("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        check_range("bos_token_id", self.bos_token_id, 0, self.vocab_size - 1)
        check_range("recompute_at", self.recompute_at, 1, MAX_COUNT)
        try:
            self.sampling.check_vocabulary(self.vocab_size)
        except InputError as err:
            raise ConfigError(f"sampling.{err.message}", hint=err.hint) from err
        for token in self.eos_token_ids:
            check_range("eos_token_ids", token, 0, self.vocab_size - 1)
        if len(set(self.eos_token_ids)) < len(self.eos_token_ids):
            raise ConfigError(f"eos_token_ids holds a token twice: {list(self.eos_token_ids)}")
        if not all(self.stop):
            raise ConfigError(f"stop is {list(self.stop)}", hint="must be a list of texts, none of them empty")


def _check_sizes(what: str, sizes: tuple[int, ...]) -> None:
    if min(sizes) < 1 or math.prod(sizes) > MAX_SAMPLE:
        raise ConfigError(f"{what} is {list(sizes)}", hint=f"at least 1 each, at most {MAX_SAMPLE:,} numbers in all")


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """How the diffusion pipeline uses the engine.

    Attributes:
        schedule: the noise schedule that the model was trained with.
        sample_shape: (C, H, W).
        num_classes: classes that may be asked for, 0 to num_classes - 1; None for a model without classes.
        null_class: the label that means "no class", for classifier-free guidance.
        class_names: one per class; None where they have none.
        default_sampler: one of `samplers.SAMPLERS`.
        sampler_config: how that one runs; the others run as the papers say.
        default_steps: sampling steps.
        default_guidance_scale: 1 means no guidance.
    """

    schedule: ScheduleConfig
    sample_shape: tuple[int, int, int]
    num_classes: int | None
    null_class: int | None
    default_sampler: str
    default_steps: int
    default_guidance_scale: float
    class_names: tuple[str, ...] | None = None
    sampler_config: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        _check_sizes("sample_shape", self.sample_shape)
        check_range("num_classes", self.num_classes, 1, MAX_COUNT)
        # The label behind those that may be asked for, or one of them.
        check_range("null_class", self.null_class, 0, -1 if self.num_classes is None else self.num_classes)
        check_class_names(self.class_names, self.num_classes)
        check_sampling(
            self.schedule,
            sampler=self.default_sampler,
            config=self.sampler_config,
            steps=self.default_steps,
            guidance_scale=self.default_guidance_scale,
        )

    def fitting_steps(self, most: int) -> int:
        """The largest number of steps up to `most` in which the default sampler can run."""
        return fitting_steps(self.schedule, most, self.default_sampler, self.sampler_config)


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """How a generator uses styles: an engine maps latents to w, and another makes images of one w for each layer.

    Attributes:
        size: S, numbers of a w.
        layers: N, styles of an image.
        mean: the file of the mean w, float32 [S], that truncation goes towards.
    """

    size: int
    layers: int
    mean: str = "w_avg.npy"

    def __post_init__(self) -> None:
        check_range("style.size", self.size, 1, MAX_COUNT)
        check_range("style.layers", self.layers, 1, MAX_COUNT)
        _check_sizes("style", (self.layers, self.size))
        if not self.mean:
            raise ConfigError("style.mean is empty", hint="must be the name of a file of the bundle")


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """How the GAN pipeline uses its engines.

    Attributes:
        latent_size: Z.
        sample_shape: (C, H, W) of the images.
        num_classes: classes that may be asked for; None for a generator without classes.
        class_names: one per class; None where they have none.
        style: of a generator with styles; None for one that makes images of latents at once.
        noise_sides: side of the square noise of every input for it; empty where the generator takes none.
    """

    latent_size: int
    sample_shape: tuple[int, int, int]
    num_classes: int | None
    class_names: tuple[str, ...] | None = None
    style: StyleSettings | None = None
    noise_sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes("sample_shape", self.sample_shape)
        _check_sizes("latent_size", (self.latent_size,))
        check_range("num_classes", self.num_classes, 1, MAX_COUNT)
        check_class_names(self.class_names, self.num_classes)
        for side in self.noise_sides:
            _check_sizes("noise_sides", (side, side))
        _check_sizes("noise_sides", (max(1, self.noise_size),))

    @property
    def noise_size(self) -> int:
        """Numbers of noise that an image takes."""
        return sum(side**2 for side in self.noise_sides)
