"""Load the weights of a GGUF file into our language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aigc_models.families.lm import TransformerLM
from aigc_models.sources.gguf.architectures import find_architecture
from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.lora.adapter import Adapter
from aigc_models.sources.transformers.families import find_family, read_config
from aigc_models.sources.transformers.rename import RenamedWeights
from aigc_models.sources.transformers.weights import build_model

__all__ = ["load_gguf_model"]


def load_gguf_model(
    meta: Metadata, config: dict[str, Any], *, adapters: Sequence[Adapter] = ()
) -> tuple[TransformerLM, tuple[str, ...]]:
    """Make the language model of a file.

    Args:
        meta: of the file.
        config: of `read_config_json`.
        adapters: merged into the weights, in their order; under transformers' names.

    Returns:
        The model, and what was converted, a sentence for each type.

    Raises:
        CheckpointError: what is not supported, or tensors that are not those of the architecture.
        ConfigError: sizes that make no model, or more memory than is free.
    """
    read = read_config(config)
    renamed = RenamedWeights(meta.file, find_architecture(meta).rules, prefix="", config=read)
    _, family = find_family(config)
    return build_model(read, renamed, family=family, source=str(meta.file.path), adapters=adapters)
