"""A folder of a language model, as transformers writes it, as a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_models.program import Program
from aigc_models.sources.lora.adapter import digests, merged_notes, open_adapters
from aigc_models.sources.transformers.families import find_family, read_config
from aigc_models.sources.transformers.language_program import check_options, language_program
from aigc_models.sources.transformers.weights import load_model
from aigc_models.text_assets.folder import read_text_assets
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import find_weights

__all__ = ["load_folder"]


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
    check_options(options)
    kind, _ = find_family(config)
    read = read_config(config)  # what config.json says is refused before what lies beside it
    place = find_weights(path)
    text = read_text_assets(place.weights.parent, config, vocab_size=read.vocab_size)
    stored = StoredWeights(place.weights)
    adapters = open_adapters(options.get("lora", ()))
    module, converted = load_model(config, stored, source=str(place.weights), adapters=adapters)
    notes = [*place.notes, *stored.notes, *converted, *merged_notes(adapters)]
    if "auto_map" in config:
        notes.append(f"the code that auto_map of config.json names was not run: {kind!r} has a definition here")
    return language_program(
        module,
        text=text,
        checkpoint=Checkpoint(config=dict(config), tensors=stored, path=place.weights, adapters=digests(adapters)),
        name=_name(path),
        source=source,
        options=options,
        notes=notes,
    )


def _name(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "lm"
