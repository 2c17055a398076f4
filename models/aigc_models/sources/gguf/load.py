"""A GGUF file of a language model, as a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_models.program import Program
from aigc_models.sources.gguf.architectures import find_architecture, read_config_json
from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.text import read_gguf_text
from aigc_models.sources.gguf.weights import load_gguf_model
from aigc_models.sources.lora.adapter import digests, merged_notes, open_adapters
from aigc_models.sources.transformers.language_program import check_options, language_program
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.gguf_file import GgufFile
from aigc_models.weights.weights_file import GGUF_SUFFIX, is_gguf

__all__ = ["is_gguf", "load_gguf"]


def load_gguf(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a file's model.

    Args:
        path: of the file.
        source: as the user named it.
        options: of the export.

    Raises:
        UnknownNameError: an option that a language model has not.
        CheckpointError: a file that is damaged, an architecture, a value, a type of numbers or a tokenizer that is not
            supported; names it.
        GgufMissingError: the package that computes quantized numbers is not installed.
        ConfigError: sizes that make no model, or more memory than is free.
    """
    check_options(options)
    file = GgufFile(path)
    meta = Metadata(file)
    config = read_config_json(meta)
    text = read_gguf_text(meta)
    adapters = open_adapters(options.get("lora", ()))
    module, converted = load_gguf_model(meta, config, adapters=adapters)
    quantized = ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(file.quantized.items()))
    notes = (f"the weights were quantized before: {quantized}",) if quantized else ()
    return language_program(
        module,
        text=text,
        checkpoint=Checkpoint(config=config, tensors=file, path=path, adapters=digests(adapters)),
        name=path.name[: -len(GGUF_SUFFIX)] or find_architecture(meta).model_type,
        source=source,
        options=options,
        notes=(*notes, *converted, *merged_notes(adapters)),
    )
