"""Our own models by name, shipped or trained by the user: how to build one, and the program of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigc_models.weights.config_file import check_record
from aigc_runtime.errors import CheckpointError, UnknownNameError
from aigc_runtime.pipelines.class_names import check_class_names

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.program import Program
    from aigc_models.weights.checkpoint import Checkpoint

__all__ = ["ENTRIES", "MODELS", "ModelEntry", "load_shipped"]

TOKENIZER = {"kind": "bytes"}
"""The tokenizer of every language model here, as config.json has it."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model whose checkpoints training writes.

    Attributes:
        family: in config.json.
        kind: of the pipeline that drives it.
        summary: one line.
        build: config.json of a checkpoint -> module with random weights.
        program: (module, checkpoint, options of the export) -> the program.
        options: names of the options that `program` takes.
        fields: of config.json beside `family` and `model`.
        in_demo: whether `aigc-export demo` shows it.
    """

    family: str
    kind: Literal["text", "diffusion", "gan"]
    summary: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    program: Callable[[nn.Module, Checkpoint, Mapping[str, Any]], Program]
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    in_demo: bool = True


def _lm(record: Mapping[str, Any]) -> nn.Module:
    from aigc_models.families.lm import LMConfig, TransformerLM

    return TransformerLM(LMConfig.from_dict(record["model"]))


def _lm_program(module: nn.Module, found: Checkpoint, options: Mapping[str, Any]) -> Program:
    from aigc_models.families.lm import TransformerLM
    from aigc_models.programs import lm_program

    assert isinstance(module, TransformerLM)
    tokenizer = found.config.get("tokenizer", TOKENIZER)
    if tokenizer != TOKENIZER:
        raise CheckpointError(
            f"config.json: tokenizer is {tokenizer!r}, which is not read", hint=f"valid: {TOKENIZER}, or leave it out"
        )
    return lm_program(
        module,
        cache=options.get("cache"),
        separate_prefill=options.get("separate_prefill", False),
        checkpoint=found,
    )


def _unet(record: Mapping[str, Any]) -> nn.Module:
    from aigc_models.families.unet import UNet, UNetConfig

    config = UNetConfig.from_dict(record["model"])
    config.require_supported_channels()
    return UNet(config)


def _unet_program(module: nn.Module, found: Checkpoint, options: Mapping[str, Any]) -> Program:
    from aigc_models.families.schedule_config import read_schedule
    from aigc_models.families.unet import UNet
    from aigc_models.programs import unet_classes, unet_program

    assert isinstance(module, UNet)
    schedule = read_schedule(found.config.get("schedule"))
    names = _class_names(found.config, unet_classes(module.config))
    program = unet_program(
        module, schedule, dynamic_size=options.get("dynamic_size"), class_names=names, checkpoint=found
    )
    return replace(program, notes=(*program.notes, *_latents_note(found.config.get("latent_space"))))


def _latents_note(latents: object) -> tuple[str, ...]:
    """Say of a UNet that was trained on latents which autoencoder decodes what it draws."""
    if latents is None:
        return ()
    written = latents if isinstance(latents, dict) else {}
    try:
        factor, digest = float(written["scaling_factor"]), str(written["vae_sha256"])
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            "config.json: latent_space is not what training writes", hint="vae_sha256, scaling_factor and picture_shape"
        ) from err
    return (
        f"it draws latents: divided by {factor:g}, they are decoded by the autoencoder whose weights have the SHA-256 "
        f"{digest}",
    )


def _gan(record: Mapping[str, Any]) -> nn.Module:
    from aigc_models.families.gan import Generator, GeneratorConfig

    return Generator(GeneratorConfig.from_dict(record["model"]))


def _gan_program(module: nn.Module, found: Checkpoint, _options: Mapping[str, Any]) -> Program:
    from aigc_models.families.gan import Generator
    from aigc_models.programs import gan_program

    assert isinstance(module, Generator)
    names = _class_names(found.config, module.config.num_classes)
    return gan_program(module, class_names=names, checkpoint=found)


def _stylegan2(record: Mapping[str, Any]) -> nn.Module:
    from aigc_models.families.stylegan2.config import StyleGAN2Config
    from aigc_models.families.stylegan2.generator import StyleGAN2

    return StyleGAN2(StyleGAN2Config.from_dict(record["model"]))


def _stylegan2_program(module: nn.Module, found: Checkpoint, options: Mapping[str, Any]) -> Program:
    from aigc_models.families.stylegan2.generator import StyleGAN2
    from aigc_models.gan_programs import read_noise_mode, stylegan2_program

    assert isinstance(module, StyleGAN2)
    names = _class_names(found.config, module.config.num_classes)
    return stylegan2_program(module, noise=read_noise_mode(options), class_names=names, checkpoint=found)


def _class_names(record: Mapping[str, Any], num_classes: int | None) -> tuple[str, ...] | None:
    """Read the class names that training wrote."""
    names = record.get("class_names")
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise CheckpointError(
            "config.json: class_names is not a list of names", hint="one name for each class, or null"
        )
    check_class_names(names, num_classes, what="config.json: class_names")
    return None if names is None else tuple(names)


_LM = ModelEntry(
    family="lm",
    kind="text",
    summary="Transformer language model over bytes, trained on the standard library's sources",
    build=_lm,
    program=_lm_program,
    options=("cache", "separate_prefill"),
    fields=("tokenizer",),
)
_UNET = ModelEntry(
    family="unet",
    kind="diffusion",
    summary="class-conditional diffusion UNet, trained on hand-written digits",
    build=_unet,
    program=_unet_program,
    options=("dynamic_size",),
    fields=("schedule", "class_names", "latent_space"),
    in_demo=False,
)
_GAN = ModelEntry(
    family="gan",
    kind="gan",
    summary="class-conditional GAN generator, trained on hand-written digits",
    build=_gan,
    program=_gan_program,
    fields=("class_names",),
    in_demo=False,
)
_STYLEGAN2 = ModelEntry(
    family="stylegan2",
    kind="gan",
    summary="StyleGAN2 generator, trained on the user's pictures",
    build=_stylegan2,
    program=_stylegan2_program,
    options=("noise",),
    fields=("class_names",),
)

ENTRIES: dict[str, ModelEntry] = {entry.family: entry for entry in (_LM, _UNET, _GAN, _STYLEGAN2)}
"""Family in config.json -> model."""

MODELS: dict[str, ModelEntry] = {
    "lm": _LM,
    "unet": _UNET,
    "gan": _GAN,
    "emoji": replace(_UNET, summary="class-conditional diffusion UNet, 32x32 in color, trained on emoji", in_demo=True),
    "fashion": replace(_STYLEGAN2, summary="class-conditional StyleGAN2, 32x32 gray, trained on Fashion-MNIST"),
}
"""Name -> model that comes with its weights; of a family, the first is called as the family."""


def load_shipped(
    name: str, *, checkpoint: Path | str | None = None, options: Mapping[str, Any] | None = None
) -> Program:
    """Build a model of ours and load its weights.

    Args:
        name: a key of `MODELS`; with a checkpoint also of `ENTRIES`, of whose family it must be.
        checkpoint: the user's own folder; None takes the shipped one.
        options: of the export, such as `{"cache": "buffer"}`.

    Raises:
        UnknownNameError: an unknown model or option.
        CheckpointError: corrupt, foreign, not finite, or weights that do not fit config.json.
        ConfigError: config.json asks for what the model does not allow.
    """
    from aigc_models.weights.before_memory import check_before_memory
    from aigc_models.weights.checkpoint import load_checkpoint, shipped_checkpoint
    from aigc_models.weights.stream_into import build_undrawn, stream_into

    known = MODELS if checkpoint is None else {**ENTRIES, **MODELS}
    if name not in known:
        raise UnknownNameError("model", name, known)
    entry = known[name]
    given = {k: v for k, v in (options or {}).items() if v is not None}
    for option in given:
        if option not in entry.options:
            raise UnknownNameError(f"export option of {name!r}", option, entry.options)
    found = load_checkpoint(shipped_checkpoint(name) if checkpoint is None else checkpoint)
    check_record(found.config, entry.family, entry.fields)
    check_before_memory(
        lambda: entry.build(found.config),
        found.tensors.described(),
        source=str(found.path),
        tables="is context_length meant?" if "context_length" in found.config["model"] else "are its sizes meant?",
    )
    module = build_undrawn(lambda: entry.build(found.config))
    converted = stream_into(module, found.tensors, source=str(found.path))
    program = entry.program(module.eval(), found, given)
    # Weights that come with the package are stored in 16 bits where their training says so: no news to the user.
    notes = (*program.notes, *found.notes, *(() if checkpoint is None else converted))
    return replace(program, name=name, notes=notes)
