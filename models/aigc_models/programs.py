"""Make programs of the families: inputs, outputs, dynamic dimensions, carried state, and how they are quantized."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from aigc_models.families.gan import Generator
from aigc_models.families.lm import LMConfig, TransformerLM
from aigc_models.families.lm_shapes import SENSITIVE_INT8, WIDE
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.program import Part, Program, QuantHints, SizeLimit
from aigc_models.separate_prefill import with_separate_prefill
from aigc_models.text_assets import BYTES, TextAssets, make_vectors, needs_vectors
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.generation.samplers import SamplerConfig, fitting_steps
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.pipelines.denoiser import CLASS_LABELS, CONTEXT, MODEL_OUTPUT, SAMPLE, TIMESTEP
from aigc_runtime.pipelines.gan import IMAGE, LATENTS
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, TextSettings
from aigc_runtime.pipelines.text import INPUT_IDS, KEPT, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

__all__ = ["gan_program", "lm_program", "unet_classes", "unet_program"]

CacheKind = Literal["growing", "buffer"]
MAX_BATCH = 64
DEFAULT_STEPS = 20
CAPACITY = "capacity"
"""The dimension of a buffered cache's places."""


class _CachedLM(nn.Module):
    """The language model with flat inputs and outputs: (ids, pad, keep, [length], keys and values) -> (logits, ...)."""

    def __init__(self, model: TransformerLM, *, buffer: bool) -> None:
        super().__init__()
        self.model = model
        self.buffer = buffer

    def forward(
        self, input_ids: Tensor, pad_length: Tensor, logits_to_keep: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Run one step."""
        flat = rest[1:] if self.buffer else rest
        out = self.model(
            input_ids,
            pad_length=pad_length,
            past=list(zip(flat[::2], flat[1::2], strict=True)),
            past_length=rest[0] if self.buffer else None,
            logits_to_keep=logits_to_keep,
        )
        return (out.logits, *(tensor for key_value in out.present for tensor in key_value))


def lm_program(
    model: TransformerLM,
    *,
    text: TextAssets = BYTES,
    cache: CacheKind | None = None,
    separate_prefill: bool = False,
    name: str = "lm",
    checkpoint: Checkpoint | None = None,
) -> Program:
    """Make the program of a language model, its KV cache carried as state.

    Args:
        model: the model.
        text: its tokenizer, special tokens and chat template; a model over bytes has none but the bytes.
        name: of the program.
        checkpoint: where its weights came from.
        cache: `growing` (the cache is as long as the text) or `buffer` (it has room for more, and is updated in place;
            how much, a session chooses, up to `context_length`). None: what the target runs faster, which of its parts
            is `growing` and of `Program.buffered` the other.
        separate_prefill: make two parts over one state and one set of weights: `prefill`, which reads prompts, and
            `decode`, which reads every token after. Both take and give the same.

    Raises:
        ConfigError: a context without room for a token beside a prompt, or another cache form.
        BundleError: the tokenizer is damaged, or has more tokens than the model. The model's vocabulary may be padded.
    """
    if cache not in (None, "growing", "buffer"):
        raise UnknownNameError("cache", cache, ("growing", "buffer"))
    config = model.config
    if config.context_length < 2:
        raise ConfigError(
            f"LMConfig.context_length is {config.context_length}",
            hint="must be at least 2 to generate: a token of a prompt, and a new one",
        )
    text.check(config.vocab_size)
    program = Program(
        name=name,
        kind="text",
        parts=_lm_parts(model, buffer=cache == "buffer"),
        settings=TextSettings(
            tokenizer=text.tokenizer,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            eos_token_ids=text.eos_token_ids,
            pad_token_id=text.pad_token_id,
            bos_token_id=text.bos_token_id,
            sampling=text.sampling,
            recompute_at=_recompute_at(config),
            chat=text.chat,
            stop=text.stop,
        ),
        assets=text.files,
        vectors=partial(make_vectors, text, config.vocab_size) if needs_vectors(text) else None,
        model_config=config.to_dict(),
        checkpoint=checkpoint,
        notes=text.notes,
        buffered=_lm_parts(model, buffer=True) if cache is None else {},
    )
    return with_separate_prefill(program) if separate_prefill else program


def _lm_parts(model: TransformerLM, *, buffer: bool) -> dict[str, Part]:
    config = model.config
    state = tuple(
        StateSpec(
            input=f"past_{part}_{layer}",
            output=f"present_{part}_{layer}",
            dtype="float32",
            shape=("batch", config.kv_heads, CAPACITY if buffer else "past", config.head_size),
            axis=2,
            kind="buffer" if buffer else "growing",
            length_input="past_length" if buffer else None,
            step_dim="sequence",
        )
        for layer in range(config.n_layers)
        for part in ("key", "value")
    )
    held = DimSpec(name=CAPACITY) if buffer else DimSpec(name="past", min=0)
    dims = (
        DimSpec(name="batch", max=MAX_BATCH),
        DimSpec(name=KEPT, max=config.context_length),
        DimSpec(name="sequence", max=config.context_length),
        replace(held, max=config.context_length),
    )
    context = SizeLimit(dims=("sequence",) if buffer else ("past", "sequence"), max=config.context_length)
    part = Part(
        module=_CachedLM(model, buffer=buffer).eval(),
        interface=Interface(
            inputs=(
                TensorSpec(name=INPUT_IDS, dtype="int64", shape=("batch", "sequence"), low=0, high=config.vocab_size),
                TensorSpec(name=PAD_LENGTH, dtype="int64", shape=("batch",), low=0, high=config.context_length),
                TensorSpec(name=LOGITS_TO_KEEP, dtype="int64", shape=(KEPT,), low=0, high="sequence"),
            ),
            outputs=(TensorSpec(name=LOGITS, dtype="float32", shape=("batch", KEPT, config.vocab_size)),),
            dims=dims,
            state=state,
        ),
        # Some padding; but padding over the text and its cache would hide whether the cache is used at all.
        example_ranges={PAD_LENGTH: (min(1, config.context_length - 1), min(3, config.context_length))},
        limits=(context,),
        hints=QuantHints(
            sensitive_int8=SENSITIVE_INT8,
            wide=WIDE,
            smooth={"gain": 0.5, "product": 0.75},
        ),
    )
    return {MAIN_ENGINE: part}


def _recompute_at(config: LMConfig) -> int | None:
    """Find after how many steps LongRoPE takes other factors, which hold for the steps before, too."""
    again = config.rope.original_context if config.rope.scaling == "longrope" else None
    return again if again is not None and again < config.context_length else None


class _TupleModule(nn.Module):
    """A module with one output, as the tuple of one that an export takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """Run the module."""
        return (self.model(*inputs),)


class _ContextUNet(nn.Module):
    """A UNet without classes but with a context: the two conditions are positional in between."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        """Run the module."""
        return (self.model(sample, timestep, None, encoder_hidden_states),)


def unet_program(
    model: UNet,
    schedule: ScheduleConfig,
    *,
    dynamic_size: bool | None = None,
    default_sampler: str | None = None,
    sampler_config: SamplerConfig | None = None,
    default_steps: int | None = None,
    default_guidance_scale: float = 1.0,
    class_names: tuple[str, ...] | None = None,
    name: str = "unet",
    checkpoint: Checkpoint | None = None,
) -> Program:
    """Make the program of a diffusion UNet.

    Args:
        model: the model.
        schedule: what it was trained with.
        dynamic_size: let the sides of the sample vary in multiples of `config.multiple_of`; None does so where the
            sample is at least 32 wide (a smaller model has only ever seen its own size).
        default_sampler: of the bundle; None takes DDIM, or DDPM where the variance is learned, which no other uses.
        sampler_config: how that one runs; None: as the papers say.
        default_steps: of the bundle; None takes 20, or as many as the schedule allows.
        default_guidance_scale: of the bundle.
        class_names: one per class.
        name: of the program.
        checkpoint: where its weights came from.

    Raises:
        ConfigError: channels that no sampler could use, or a schedule whose variance is learned for a model that gives
            none, or the other way round.
    """
    config = model.config
    _check_variance(config, schedule)
    for field in ("time_cond_proj_dim", "addition_embed_type"):
        if (value := getattr(config, field)) is not None:
            raise ConfigError(
                f"UNetConfig.{field} is {value}: the time has a condition",
                hint="such a model runs in a pipeline from text to pictures: name the whole pipeline's folder",
            )
    sampler = default_sampler or ("ddpm" if schedule.learns_variance else "ddim")
    runs = sampler_config or SamplerConfig()
    dynamic = config.sample_size >= 32 if dynamic_size is None else dynamic_size
    sides: tuple[int | str, int | str] = ("height", "width") if dynamic else (config.sample_size, config.sample_size)
    dims = [DimSpec(name="batch", max=2 * MAX_BATCH)]
    if dynamic:
        dims += [DimSpec(name=n, min=config.min_size, multiple_of=config.multiple_of) for n in ("height", "width")]
    inputs = [
        TensorSpec(name=SAMPLE, dtype="float32", shape=("batch", config.in_channels, *sides)),
        TensorSpec(name=TIMESTEP, dtype="float32", shape=("batch",)),
    ]
    module: nn.Module = _TupleModule(model)
    if config.num_class_embeds is not None:
        inputs.append(
            TensorSpec(name=CLASS_LABELS, dtype="int64", shape=("batch",), low=0, high=config.num_class_embeds)
        )
    elif config.cross_attention_dim is not None:
        module = _ContextUNet(model)
    if config.cross_attention_dim is not None:
        dims.append(DimSpec(name="tokens"))
        context = ("batch", "tokens", config.cross_attention_dim)
        inputs.append(TensorSpec(name=CONTEXT, dtype="float32", shape=context))
    part = Part(
        module=module.eval(),
        interface=Interface(
            inputs=tuple(inputs),
            outputs=(TensorSpec(name=MODEL_OUTPUT, dtype="float32", shape=("batch", config.out_channels, *sides)),),
            dims=tuple(dims),
        ),
        example_ranges={TIMESTEP: (0, schedule.num_train_timesteps)},
        hints=QuantHints(sensitive=("conv_in", "conv_out")),
    )
    return Program(
        name=name,
        kind="diffusion",
        parts={MAIN_ENGINE: part},
        settings=DiffusionSettings(
            schedule=schedule,
            sample_shape=(config.in_channels, config.sample_size, config.sample_size),
            num_classes=unet_classes(config),
            null_class=config.null_class,
            default_sampler=sampler,
            sampler_config=runs,
            default_steps=fitting_steps(schedule, DEFAULT_STEPS, sampler, runs)
            if default_steps is None
            else default_steps,
            default_guidance_scale=default_guidance_scale,
            class_names=class_names,
        ),
        model_config=config.to_dict(),
        checkpoint=checkpoint,
    )


def _check_variance(config: UNetConfig, schedule: ScheduleConfig) -> None:
    config.require_supported_channels()
    twice = 2 * config.in_channels
    if schedule.learns_variance and config.out_channels != twice:
        raise ConfigError(
            f"UNetConfig.out_channels is {config.out_channels}, "
            f"the schedule's variance_type {schedule.variance_type!r}",
            hint=f"a learned variance takes out_channels of 2 * in_channels = {twice}; or set variance_type to "
            "'fixed_small'",
        )
    if not schedule.learns_variance and config.out_channels != config.in_channels:
        raise ConfigError(
            f"UNetConfig.out_channels is {config.out_channels}, in_channels is {config.in_channels}, "
            f"the schedule's variance_type {schedule.variance_type!r}",
            hint="set the schedule's variance_type to what the model was trained with: 'learned_range' or 'learned'",
        )


def unet_classes(config: UNetConfig) -> int | None:
    """Count the classes that can be requested: without the null class where it is the last."""
    classes = config.num_class_embeds
    return classes - 1 if classes is not None and config.null_class == classes - 1 else classes


def gan_program(
    model: Generator,
    *,
    class_names: tuple[str, ...] | None = None,
    name: str = "gan",
    checkpoint: Checkpoint | None = None,
) -> Program:
    """Make the program of a GAN's generator.

    Args:
        model: the model.
        class_names: one per class.
        name: of the program.
        checkpoint: where its weights came from.
    """
    config = model.config
    shape = (config.image_channels, config.image_size, config.image_size)
    part = Part(
        module=_TupleModule(model).eval(),
        interface=Interface(
            inputs=(
                TensorSpec(name=LATENTS, dtype="float32", shape=("batch", config.latent_size)),
                TensorSpec(name=CLASS_LABELS, dtype="int64", shape=("batch",), low=0, high=config.num_classes),
            ),
            outputs=(TensorSpec(name=IMAGE, dtype="float32", shape=("batch", *shape)),),
            dims=(DimSpec(name="batch", max=2 * MAX_BATCH),),
        ),
        # Integer convolutions are worth it even for the image; rounded weights alone would gain nothing there.
        hints=QuantHints(sensitive=("project", "to_image"), sensitive_int8=("project",)),
    )
    return Program(
        name=name,
        kind="gan",
        parts={MAIN_ENGINE: part},
        settings=GanSettings(
            latent_size=config.latent_size,
            sample_shape=shape,
            num_classes=config.num_classes,
            class_names=class_names,
        ),
        model_config=config.to_dict(),
        checkpoint=checkpoint,
    )
