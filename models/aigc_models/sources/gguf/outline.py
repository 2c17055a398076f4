"""What a GGUF file says before its weights are read."""

from __future__ import annotations

from pathlib import Path

from aigc_models.sources.gguf.architectures import find_architecture, read_config_json
from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.text import read_gguf_text
from aigc_models.sources.outline import Outline, check_weights
from aigc_models.sources.transformers.families import read_config
from aigc_models.sources.transformers.rename import find_rule
from aigc_models.weights.gguf_file import GgufFile

__all__ = ["outline_gguf"]


def outline_gguf(path: Path) -> Outline:
    """Read a file's header, and check that its tensors are those of its architecture.

    Raises:
        CheckpointError: damaged, or of an architecture, a value or a tokenizer that is not supported.
        ConfigError: sizes that make no model.
    """
    file = GgufFile(path)
    meta = Metadata(file)
    config = read_config_json(meta)
    read, found = read_config(config), find_architecture(meta)
    text = read_gguf_text(meta)
    parameters = check_weights(
        ((name, tensor.shape) for name, tensor in file.tensors.items()),
        read,
        source=str(path),
        names=lambda name: find_rule(name, found.rules, prefix="")[0],
    )
    stored: dict[str, int] = {}
    for tensor in file.tensors.values():
        stored[tensor.kind.name] = stored.get(tensor.kind.name, 0) + tensor.last - tensor.first
    return Outline(
        kind="text",
        architecture=meta.architecture,
        family=found.model_type,
        parameters=parameters,
        stored=dict(sorted(stored.items(), key=lambda item: -item[1])),
        config=read,
        text=text,
        notes=text.notes,
    )
