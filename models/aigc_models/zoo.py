"""The models by name: how to build one, how it is exported, and where its shipped checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from aigc_models.evaluation.evaluation import STANDARD_LIBRARY, Evaluation, choose_evaluation
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.schedule_config import read_schedule
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.spec import ExportSpec
from aigc_models.specs import gan_spec, lm_spec, unet_classes, unet_spec
from aigc_models.weights.checkpoint import Checkpoint, load_checkpoint, load_into, shipped_checkpoint
from aigc_models.weights.config_file import check_record
from aigc_models.weights.load_into import check_fits
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError
from aigc_runtime.pipelines.class_names import check_class_names
from aigc_runtime.system.host_memory import available_memory

__all__ = ["MODELS", "LoadedModel", "ModelEntry", "load_model"]

BYTES: dict[str, str | int] = {"kind": "bytes"}
"""The tokenizer of every language model here."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model of the zoo.

    Attributes:
        family: which pipeline runs it.
        summary: one line.
        build: config.json of a checkpoint -> module with random weights.
        spec: (module, config.json, options of the export) -> how it is exported.
        options: names of the options that `spec` takes.
        fields: of config.json beside `family` and `model`.
    """

    family: Literal["text", "diffusion", "gan"]
    summary: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    spec: Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], ExportSpec]
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        name: in the zoo.
        spec: how it is exported; holds the module.
        checkpoint: where the weights came from.
        notes: for the user: what was converted, what lies beside the weights and was not read.
    """

    name: str
    spec: ExportSpec
    checkpoint: Checkpoint
    notes: tuple[str, ...] = ()

    def evaluation(self, quality_data: Path | str | None = None) -> Evaluation:
        """Choose what the model is evaluated on; see `choose_evaluation`."""
        found = self.checkpoint
        return choose_evaluation(
            self.spec.settings,
            kept=found.data,
            held_out=found.held_out,
            class_names=found.config.get("class_names"),
            quality_data=quality_data,
        )

    def is_evaluated_elsewhere(self, evaluation: Evaluation) -> bool:
        """Check whether own weights are evaluated on the built-in text, which may differ from their training data."""
        shipped = shipped_checkpoint(self.name)
        return evaluation.data == STANDARD_LIBRARY and self.checkpoint.path.parent != shipped


def _lm_spec(module: nn.Module, record: Mapping[str, Any], options: Mapping[str, Any]) -> ExportSpec:
    assert isinstance(module, TransformerLM)
    tokenizer = record.get("tokenizer", BYTES)
    if tokenizer != BYTES:
        raise CheckpointError(
            f"config.json: tokenizer is {tokenizer!r}, which is not read", hint=f"valid: {BYTES}, or leave it out"
        )
    return lm_spec(module, tokenizer=BYTES, cache=options.get("cache", "growing"))


def _unet(record: Mapping[str, Any]) -> nn.Module:
    config = UNetConfig.from_dict(record["model"])
    config.require_supported_channels()
    return UNet(config)


def _unet_spec(module: nn.Module, record: Mapping[str, Any], options: Mapping[str, Any]) -> ExportSpec:
    assert isinstance(module, UNet)
    schedule = read_schedule(record.get("schedule"))
    names = _class_names(record, unet_classes(module.config))
    return unet_spec(module, schedule, dynamic_size=options.get("dynamic_size"), class_names=names)


def _gan_spec(module: nn.Module, record: Mapping[str, Any], _options: Mapping[str, Any]) -> ExportSpec:
    assert isinstance(module, Generator)
    return gan_spec(module, class_names=_class_names(record, module.config.num_classes))


def _class_names(record: Mapping[str, Any], num_classes: int | None) -> tuple[str, ...] | None:
    """Read the class names that training wrote."""
    names = record.get("class_names")
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise CheckpointError(
            "config.json: class_names is not a list of names", hint="one name for each class, or null"
        )
    check_class_names(names, num_classes, what="config.json: class_names")
    return None if names is None else tuple(names)


MODELS: dict[str, ModelEntry] = {
    "lm": ModelEntry(
        family="text",
        summary="Transformer language model over bytes, trained on the standard library's sources",
        build=lambda record: TransformerLM(LMConfig.from_dict(record["model"])),
        spec=_lm_spec,
        options=("cache",),
        fields=("tokenizer",),
    ),
    "unet": ModelEntry(
        family="diffusion",
        summary="class-conditional diffusion UNet, trained on hand-written digits",
        build=_unet,
        spec=_unet_spec,
        options=("dynamic_size",),
        fields=("schedule", "class_names"),
    ),
    "gan": ModelEntry(
        family="gan",
        summary="class-conditional GAN generator, trained on hand-written digits",
        build=lambda record: Generator(GeneratorConfig.from_dict(record["model"])),
        spec=_gan_spec,
        fields=("class_names",),
    ),
}


def _check_before_memory(entry: ModelEntry, found: Checkpoint) -> None:
    """Check before memory is taken that the file holds what config.json describes."""
    with torch.device("meta"):
        module = entry.build(found.config)
    check_fits(module, found.tensors, source=str(found.path))
    tables, free = sum(buffer.nbytes for buffer in module.buffers()), available_memory()
    if free is not None and tables > free:
        raise ConfigError(
            f"a model of this config.json needs {tables / 2**30:,.1f} GiB of memory for its tables, "
            f"{free / 2**30:,.1f} GiB are free",
            hint="is context_length meant?" if entry.family == "text" else "are its sizes meant?",
        )


def load_model(
    name: str, *, checkpoint: Path | str | None = None, options: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Build a model and load its weights.

    Args:
        name: a key of `MODELS`.
        checkpoint: the user's own folder; None takes the shipped one.
        options: of the export, such as `{"cache": "buffer"}`.

    Raises:
        UnknownNameError: an unknown model or option.
        CheckpointError: corrupt, foreign, not finite, or weights that do not fit config.json.
        ConfigError: config.json asks for what the model does not allow.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    entry = MODELS[name]
    given = {k: v for k, v in (options or {}).items() if v is not None}
    for option in given:
        if option not in entry.options:
            raise UnknownNameError(f"export option of {name!r}", option, entry.options)
    found = load_checkpoint(shipped_checkpoint(name) if checkpoint is None else checkpoint)
    check_record(found.config, name, entry.fields)
    _check_before_memory(entry, found)
    module = entry.build(found.config)
    converted = load_into(module, found.tensors, source=str(found.path))
    spec = entry.spec(module.eval(), found.config, given)
    return LoadedModel(name=name, spec=spec, checkpoint=found, notes=(*found.notes, *converted))
