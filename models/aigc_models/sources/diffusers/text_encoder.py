"""config.json of a CLIPTextModel, with or without a projection: every field is read, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.sources.transformers.fields import Fields
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["CLIP_CLASS", "CLIP_MODEL_TYPE", "PROJECTED_CLASS", "clip_tensor", "is_clip_text", "read_clip_text"]

CLIP_CLASS, PROJECTED_CLASS, CLIP_MODEL_TYPE = "CLIPTextModel", "CLIPTextModelWithProjection", "clip_text_model"
DEFAULT_PROJECTION, DEFAULT_END = 512, 49407
"""Where a file does not say it, as in transformers."""
NO_END = 2
"""The `eos_token_id` of files that never said the right one: the highest id ends a text there."""
_PREFIX = "text_model."
_COMPUTED = "embeddings.position_ids"
"""0, 1, 2 and so on, which older versions of transformers saved."""


def is_clip_text(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is of CLIP's text encoder, with or without a projection."""
    return config is not None and config.get("model_type") == CLIP_MODEL_TYPE


def read_clip_text(values: Mapping[str, Any], *, where: str = "config.json") -> ClipTextConfig:
    """Read the configuration of a text encoder; one without a class has no projection.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: another class, a field that is not known, or one that asks for what is not done here.
        ConfigError: values that make no model.
    """
    classes = values.get("architectures")
    if not is_clip_text(values) or classes not in (None, [CLIP_CLASS], [PROJECTED_CLASS]):
        raise CheckpointError(
            f"{where}: model_type is {shown(values.get('model_type'))}, architectures {shown(classes)}",
            hint=f"supported: {CLIP_MODEL_TYPE!r} of class {CLIP_CLASS} or {PROJECTED_CLASS}",
        )
    default, fields = ClipTextConfig(), Fields(values, where=where)
    fields.skip("projection_dim", "initializer_factor")
    projected = classes == [PROJECTED_CLASS]
    end = fields.integer("eos_token_id", DEFAULT_END, low=0) if projected else NO_END
    config = ClipTextConfig(
        vocab_size=fields.integer("vocab_size", default.vocab_size),
        hidden_size=fields.integer("hidden_size", default.hidden_size),
        intermediate_size=fields.integer("intermediate_size", default.intermediate_size),
        num_hidden_layers=fields.integer("num_hidden_layers", default.num_hidden_layers),
        num_attention_heads=fields.integer("num_attention_heads", default.num_attention_heads),
        max_position_embeddings=fields.integer("max_position_embeddings", default.max_position_embeddings),
        hidden_act=fields.text("hidden_act", default.hidden_act),
        layer_norm_eps=fields.number("layer_norm_eps", default.layer_norm_eps),
        attention_dropout=fields.number("attention_dropout", default.attention_dropout),
        projection_dim=fields.integer("projection_dim", DEFAULT_PROJECTION) if projected else None,
        eos_token_id=None if end == NO_END else end,
    )
    fields.require("use_attention_mask", False)
    fields.finish()
    return config


def clip_tensor(name: str) -> str | None:
    """What a tensor of a text encoder is called here; None for one that is computed.

    >>> clip_tensor("text_model.final_layer_norm.bias"), clip_tensor("text_model.embeddings.position_ids")
    ('final_layer_norm.bias', None)
    """
    ours = name.removeprefix(_PREFIX)
    return None if ours == _COMPUTED else ours
