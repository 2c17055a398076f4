"""What a folder that transformers wrote says before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_models.sources.outline import Outline, check_weights, stored_bytes
from aigc_models.sources.transformers.families import find_family, read_config
from aigc_models.sources.transformers.rename import find_rule
from aigc_models.text_assets import read_text_assets
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import find_weights

__all__ = ["outline_folder"]


def outline_folder(path: Path, config: Mapping[str, Any]) -> Outline:
    """Read config.json, the headers of the weights and the tokenizer, and check that they belong together.

    Args:
        path: of the folder, or of the weights in it.
        config: its config.json.

    Raises:
        CheckpointError: an architecture or a field that is not supported, or damaged or foreign weights.
        ConfigError: sizes that make no model, or another model's tokenizer.
    """
    kind, family = find_family(config)
    read = read_config(config)
    place = find_weights(path)
    stored = StoredWeights(place.weights)
    parameters = check_weights(
        ((name, tensor.shape) for name, tensor in stored.headers),
        read,
        source=str(place.weights),
        names=lambda name: find_rule(name, family.rules, prefix=family.prefix)[0],
    )
    text = read_text_assets(place.weights.parent, config, vocab_size=read.vocab_size)
    return Outline(
        kind="text",
        architecture=family.architecture,
        family=kind,
        parameters=parameters,
        stored=stored_bytes(stored.headers),
        config=read,
        text=text,
        notes=(*place.notes, *stored.notes, *text.notes),
    )
