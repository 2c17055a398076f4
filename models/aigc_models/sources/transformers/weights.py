"""Load the weights of a folder into our language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.lora.adapter import Adapter
from aigc_models.sources.lora.merge import MergedWeights
from aigc_models.sources.transformers.families import find_family, read_config
from aigc_models.sources.transformers.family import Family
from aigc_models.sources.transformers.rename import RenamedWeights
from aigc_models.weights.before_memory import check_before_memory
from aigc_models.weights.stored_weights import WeightsReader
from aigc_models.weights.stream_into import build_undrawn, stream_into

__all__ = ["build_model", "load_model"]


def load_model(
    config: Mapping[str, Any], weights: WeightsReader, *, source: str, adapters: Sequence[Adapter] = ()
) -> tuple[TransformerLM, tuple[str, ...]]:
    """Make the language model that a config.json describes, with the weights of a folder.

    Args:
        config: the parsed config.json.
        weights: under transformers' names.
        source: what holds them, for messages.
        adapters: merged into them, in their order.

    Returns:
        The model, and what was converted, a sentence for each type.

    Raises:
        CheckpointError: what is not supported, or weights that are not those of config.json.
        ConfigError: sizes that make no model, or more memory than is free.
    """
    _, family = find_family(config)
    read = read_config(config)
    renamed = RenamedWeights(weights, family.rules, prefix=family.prefix, config=read)
    return build_model(read, renamed, family=family, source=source, adapters=adapters)


def build_model(
    config: LMConfig, weights: WeightsReader, *, family: Family, source: str, adapters: Sequence[Adapter] = ()
) -> tuple[TransformerLM, tuple[str, ...]]:
    """Make a language model with weights that have our names; see `load_model`."""
    if adapters:
        weights = MergedWeights(weights, adapters, family=family, config=config, source=source)
    check_before_memory(lambda: TransformerLM(config), weights.described(), source=source)
    module = build_undrawn(lambda: TransformerLM(config))
    assert isinstance(module, TransformerLM)
    return module.eval(), stream_into(module, weights, source=source)
