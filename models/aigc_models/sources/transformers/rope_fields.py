"""Read how positions become angles, in every form that transformers writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from aigc_models.families.rope_config import RopeConfig
from aigc_models.sources.transformers.fields import Fields
from aigc_runtime.errors import CheckpointError

__all__ = ["KINDS", "Kind", "read_rope", "rope_of"]

Kind = Literal["none", "linear", "llama3", "longrope", "yarn"]
KINDS: Mapping[str, Kind] = {
    "default": "none",
    "linear": "linear",
    "llama3": "llama3",
    "yarn": "yarn",
}
"""transformers' `rope_type` -> ours; that of LongRoPE is Phi-3's."""


def read_rope(
    fields: Fields,
    *,
    head_size: int,
    context_length: int,
    theta: float = 10000.0,
    part: float | None = None,
    original: int | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> RopeConfig:
    """Read `rope_parameters` (version 5), or `rope_theta` and `rope_scaling` (before), into one configuration.

    Args:
        fields: of config.json.
        head_size: E.
        context_length: positions of the model.
        theta: of a config.json that states none.
        part: of each head that turns, in a config.json that states none; None for a family whose heads turn whole.
        original: positions before the context was made longer, in a config.json that states none.
        kinds: names of scalings -> ours.
    """
    if part is None:
        fields.require("partial_rotary_factor", 1.0)
    return rope_of(
        fields.either("rope_scaling", "rope_parameters"),
        theta=fields.number("rope_theta", theta),
        part=None if part is None else fields.number("partial_rotary_factor", part),
        head_size=head_size,
        context_length=context_length,
        original=_original(fields, original),
        kinds=kinds,
    )


def _original(fields: Fields, default: int | None) -> int | None:
    name = "original_max_position_embeddings"
    return fields.maybe_integer(name) if default is None else fields.integer(name, default)


def rope_of(
    inner: Fields | None,
    *,
    theta: float,
    head_size: int,
    context_length: int,
    part: float | None = None,
    original: int | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> RopeConfig:
    """Make the configuration of one object of rotary parameters; what it does not say is as given."""
    if inner is None:
        return RopeConfig(theta=theta, rotary_size=_rotary_size(head_size, part))
    theta = inner.number("rope_theta", theta)
    if part is None:
        inner.require("partial_rotary_factor", 1.0)
    else:
        part = inner.number("partial_rotary_factor", part)
    kind = inner.choice("rope_type" if "rope_type" in inner else "type", "default", kinds)
    inner.skip("type", "rope_type", "finetuned")
    given: dict[str, Any] = {"theta": theta, "rotary_size": _rotary_size(head_size, part), "scaling": kind}
    if kind in ("llama3", "yarn", "longrope"):
        stated = inner.integer("original_max_position_embeddings", context_length)
        given["original_context"] = original or stated
    if kind in ("linear", "llama3", "yarn"):
        given["factor"] = inner.number("factor")
    if kind == "llama3":
        given["low_freq_factor"] = inner.number("low_freq_factor")
        given["high_freq_factor"] = inner.number("high_freq_factor")
    if kind == "yarn":
        given |= _yarn(inner, given["factor"])
    if kind == "longrope":
        given["short_factors"], given["long_factors"] = inner.numbers("short_factor"), inner.numbers("long_factor")
        given["factor"] = inner.maybe_number("factor") or context_length / given["original_context"]
        given["attention_factor"] = inner.maybe_number("attention_factor")
        # Of some published files; they say what the formula gives.
        inner.skip("short_mscale", "long_mscale")
    inner.finish()
    return RopeConfig(**given)


def _yarn(inner: Fields, factor: float) -> dict[str, Any]:
    inner.require("truncate", True)
    scale, over_all = inner.maybe_number("mscale"), inner.maybe_number("mscale_all_dim")
    attention = inner.maybe_number("attention_factor")
    if attention is None and scale and over_all and factor > 1:
        attention = (0.1 * scale * math.log(factor) + 1) / (0.1 * over_all * math.log(factor) + 1)
    return {
        "beta_fast": inner.maybe_number("beta_fast") or 32.0,
        "beta_slow": inner.maybe_number("beta_slow") or 1.0,
        "attention_factor": attention,
    }


def _rotary_size(head_size: int, part: float | None) -> int | None:
    size = head_size if part is None else int(head_size * part)
    if not 0 < size <= head_size or size % 2:
        raise CheckpointError(
            f"config.json: partial_rotary_factor is {part} of heads of {head_size}",
            hint="an even number of a head's numbers turns",
        )
    return None if size == head_size else size
