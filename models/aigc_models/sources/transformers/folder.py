"""A folder of a language model, as transformers writes it, as a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.sources.transformers.families import UnknownArchitectureError, find_family, read_config
from aigc_models.sources.transformers.weights import load_model
from aigc_models.text_assets.folder import read_text_assets
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import find_weights
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError

__all__ = ["OPTIONS", "is_known", "is_transformers_config", "load_folder"]

OPTIONS = ("cache", "separate_prefill", "context_length")
"""Of the export, that a folder takes."""


def is_transformers_config(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is one of transformers': it names a kind of model, and is neither ours nor diffusers'."""
    if config is None or "family" in config or "_class_name" in config:
        return False
    return "model_type" in config or "architectures" in config


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a family that is known here."""
    if not is_transformers_config(config):
        return False
    try:
        find_family(config)
    except UnknownArchitectureError:
        return False
    except CheckpointError:
        return True  # a known family's model of another kind, which loading refuses
    return True


def load_folder(path: Path, config: Mapping[str, Any], *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a folder's model.

    Args:
        path: of the folder, or of the weights in it.
        config: its config.json.
        source: as the user named it.
        options: of the export.

    Raises:
        UnknownNameError: an option that a language model has not.
        CheckpointError: an architecture or a field that is not supported, or damaged or foreign weights.
        ConfigError: sizes that make no model, or more memory than is free.
    """
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError("export option of a language model", option, OPTIONS)
    kind, _ = find_family(config)
    read = read_config(config)  # what config.json says is refused before what lies beside it
    place = find_weights(path)
    text = read_text_assets(place.weights.parent, config, vocab_size=read.vocab_size)
    stored = StoredWeights(place.weights)
    module, converted = load_model(config, stored, source=str(place.weights))
    if (context_length := options.get("context_length")) is not None:
        module.config = _shortened(module.config, context_length)
    program = lm_program(
        module,
        text=text,
        cache=options.get("cache", "growing"),
        separate_prefill=options.get("separate_prefill", False),
        name=_name(path),
        checkpoint=Checkpoint(config=dict(config), tensors=stored, path=place.weights),
    )
    notes = [*place.notes, *stored.notes, *converted, *text.notes]
    if "auto_map" in config:
        notes.append(f"the code that auto_map of config.json names was not run: {kind!r} has a definition here")
    return replace(program, source=source, notes=tuple(notes))


def _shortened(config: Any, context_length: int) -> Any:
    if not 2 <= context_length <= config.context_length:
        raise ConfigError(
            f"--context-length is {context_length:,}, the model has {config.context_length:,} positions",
            hint=f"choose 2 to {config.context_length:,}",
        )
    return replace(config, context_length=context_length)


def _name(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "lm"
