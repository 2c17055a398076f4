"""The configuration of CLIP's text encoder; field names are the transformers library's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["ClipTextConfig"]

ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """A text encoder's configuration.

    Attributes:
        vocab_size: tokens.
        hidden_size: D.
        intermediate_size: width of the feed-forward layers.
        num_hidden_layers: layers.
        num_attention_heads: N.
        max_position_embeddings: most tokens of a text.
        hidden_act: `quick_gelu`, x sigmoid(1.702 x), or `gelu`.
        layer_norm_eps: of every norm.
        attention_dropout: of the attention's weights, while training.
        projection_dim: P, width of the embedding of a whole text; None for an encoder that gives none.
        eos_token_id: the first token of this id ends a text, and is the one that is projected; None takes the first of
            the highest id, as CLIP was published.

    Raises:
        ConfigError: a value that the model does not allow; names the field, the value and what is allowed.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    projection_dim: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        require_positive(
            "ClipTextConfig",
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            projection_dim=self.projection_dim,
        )
        require_one_of("ClipTextConfig", "hidden_act", self.hidden_act, ACTIVATIONS)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"ClipTextConfig.num_attention_heads is {self.num_attention_heads}",
                hint=f"must be a divisor of hidden_size = {self.hidden_size}",
            )
        end = self.eos_token_id
        if end is not None and (type(end) is not int or not 0 <= end < self.vocab_size):
            raise ConfigError(
                f"ClipTextConfig.eos_token_id is {end!r}", hint=f"must be below vocab_size = {self.vocab_size}"
            )
        for field, low, high in (("layer_norm_eps", 0.0, math.inf), ("attention_dropout", -1e-9, 1.0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
                raise ConfigError(
                    f"ClipTextConfig.{field} is {value!r}", hint=f"must be a number from 0 and below {high:g}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipTextConfig:
        """Read plain JSON; raises ConfigError on an unknown field."""
        return config_from_dict(cls, values)
