"""How positions become angles, as GGUF files say it, in transformers' words."""

from __future__ import annotations

from typing import Any

import torch

from aigc_models.families.rope import RopeConfig, rotary_frequencies
from aigc_models.sources.gguf.metadata import Metadata
from aigc_runtime.errors import CheckpointError

__all__ = ["rope_parameters"]

_KINDS = {"none": "default", "linear": "linear", "yarn": "yarn", "longrope": "longrope"}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every model that was published with this scaling."""


def rope_parameters(meta: Metadata, *, head_size: int, context: int, theta: float = 10000.0) -> dict[str, Any]:
    """Read `rope.*` and the tensors of frequency factors into transformers' `rope_parameters`.

    Args:
        meta: of the file.
        head_size: E.
        context: positions of the model.
        theta: where the file states none.

    Raises:
        CheckpointError: a scaling, or factors, that are not supported.
    """
    fields = meta.fields
    rotated = fields.integer("rope.dimension_count", head_size)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": fields.number("rope.freq_base", theta)}
    if rotated != head_size:
        if not 0 < rotated <= head_size:
            raise CheckpointError(
                f"{str(meta.file.path)!r}: rope.dimension_count is {rotated} of heads of {head_size}",
                hint="the file is damaged: get it again",
            )
        found["partial_rotary_factor"] = rotated / head_size
    kind = fields.choice("rope.scaling.type", "linear", _KINDS)  # as llama.cpp has it: a factor alone is of this one
    factor = fields.maybe_number("rope.scaling.factor", fields.maybe_number("rope.scale_linear"))
    original = fields.maybe_integer("rope.scaling.original_context_length")
    fields.skip("rope.scaling.finetuned")
    given = meta.numbers("rope_freqs.weight")
    short, long = meta.numbers("rope_factors_short.weight"), meta.numbers("rope_factors_long.weight")
    if short is not None and long is not None:
        attention = fields.maybe_number("rope.scaling.attn_factor")
        return found | _longrope(short, long, context=context, original=original, attention=attention)
    fields.require("rope.scaling.attn_factor", 1.0)
    if given is not None:
        return found | _llama3(given, found["rope_theta"], rotated, str(meta.file.path))
    if kind == "linear" and factor is not None:
        found |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        fields.require("rope.scaling.yarn_attn_factor", 1.0)
        fields.require("rope.scaling.yarn_ext_factor", 1.0)
        found |= {"rope_type": kind, "factor": 1.0 if factor is None else factor}
        found |= {"original_max_position_embeddings": original or context}
        found["beta_fast"] = fields.number("rope.scaling.yarn_beta_fast", 32.0)
        found["beta_slow"] = fields.number("rope.scaling.yarn_beta_slow", 1.0)
    if kind == "longrope":
        raise CheckpointError(
            f"{str(meta.file.path)!r}: rope.scaling.type is 'longrope', but the tensors of its factors are missing",
            hint="rope_factors_short.weight and rope_factors_long.weight: get the file again",
        )
    return found


def _longrope(
    short: list[float], long: list[float], *, context: int, original: int | None, attention: float | None
) -> dict[str, Any]:
    before = original or context
    found = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "factor": context / before}
    stated = {} if attention is None else {"attention_factor": attention}
    return {**found, **stated, "original_max_position_embeddings": before}


def _llama3(given: list[float], theta: float, rotated: int, what: str) -> dict[str, Any]:
    """Divisors of the frequencies as the scaling that gives them."""
    plain = rotary_frequencies(RopeConfig(theta=theta, rotary_size=rotated), rotated)
    factor = max(given)
    llama3 = RopeConfig(
        theta=theta,
        rotary_size=rotated,
        scaling="llama3",
        factor=factor if factor > 0 else 1.0,
        original_context=int(_LLAMA3["original_max_position_embeddings"]),
    )
    expected = plain / rotary_frequencies(llama3, rotated)
    if expected.shape != (len(given),) or not torch.allclose(expected, torch.tensor(given), rtol=1e-5):
        raise CheckpointError(
            f"{what!r}: rope_freqs.weight holds divisors that are not those of Llama 3's scaling",
            hint="only those are supported: take the model's folder as transformers has it",
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
