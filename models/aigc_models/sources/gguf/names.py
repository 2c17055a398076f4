"""The names of tensors in GGUF files, as rules of ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.rename import Change, Rule

__all__ = ["DECODER", "FUSED", "GATE_AND_UP", "NORMS_AFTER", "PERMUTED", "POSITIONS", "SANDWICH"]


def _one(theirs: str, ours: str, change: Change | None = None) -> Rule:
    return Rule(theirs=theirs, ours=(ours,), change=change)


def _both(theirs: str, ours: str, change: Change | None = None) -> tuple[Rule, Rule]:
    """A weight and its bias."""
    return _one(f"{theirs}.weight", f"{ours}.weight", change), _one(f"{theirs}.bias", f"{ours}.bias", change)


def _halves(tensor: Tensor, heads: int) -> Sequence[Tensor]:
    """Rows of a head, its pairs side by side -> the first of all pairs, then the second.

    llama.cpp turns neighbors (x_2i, x_2i+1) in the models whose rows its converter ordered so; the halves are what the
    converter had.
    """
    pairs = torch.unflatten(tensor, 0, (heads, tensor.shape[0] // heads // 2, 2))
    return (pairs.transpose(1, 2).flatten(0, 2),)


def _query_halves(tensor: Tensor, config: LMConfig) -> Sequence[Tensor]:
    return _halves(tensor, config.n_heads)


def _key_halves(tensor: Tensor, config: LMConfig) -> Sequence[Tensor]:
    return _halves(tensor, config.kv_heads)


def _projections(tensor: Tensor, config: LMConfig) -> Sequence[Tensor]:
    """[(H + 2 N) * E, ...] -> queries, keys, values."""
    return torch.split(tensor, [heads * config.head_size for heads in (config.n_heads, *[config.kv_heads] * 2)])


def _gate_and_up(tensor: Tensor, _config: LMConfig) -> Sequence[Tensor]:
    return torch.split(tensor, tensor.shape[0] // 2)


_LAYER, _ATTENTION, _MLP = "layers.*", "layers.*.self_attn", "layers.*.mlp"

_TOP = (
    _one("token_embd.weight", "embed_tokens.weight"),
    *_both("output", "lm_head"),
    *_both("output_norm", "norm"),
    Rule(theirs="rope_freqs.weight", ours=()),  # they are part of the configuration
    Rule(theirs="rope_factors_long.weight", ours=()),
    Rule(theirs="rope_factors_short.weight", ours=()),
    Rule(theirs="blk.*.attn_rot_embd.weight", ours=()),  # computed
)
_VALUES = (*_both("blk.*.attn_v", f"{_ATTENTION}.v_proj"), *_both("blk.*.attn_output", f"{_ATTENTION}.o_proj"))
_QUERIES = (*_both("blk.*.attn_q", f"{_ATTENTION}.q_proj"), *_both("blk.*.attn_k", f"{_ATTENTION}.k_proj"))
_HEAD_NORMS = (
    _one("blk.*.attn_q_norm.weight", f"{_ATTENTION}.q_norm.weight"),
    _one("blk.*.attn_k_norm.weight", f"{_ATTENTION}.k_norm.weight"),
)
_FEED_FORWARD = tuple(
    rule for part in ("gate", "up", "down") for rule in _both(f"blk.*.ffn_{part}", f"{_MLP}.{part}_proj")
)
_NORMS_BEFORE = (
    *_both("blk.*.attn_norm", f"{_LAYER}.input_layernorm"),
    *_both("blk.*.ffn_norm", f"{_LAYER}.post_attention_layernorm"),
)
DECODER = (*_TOP, *_QUERIES, *_VALUES, *_HEAD_NORMS, *_FEED_FORWARD, *_NORMS_BEFORE)
"""Llama's form, its rows as transformers has them."""
PERMUTED = (
    *_both("blk.*.attn_q", f"{_ATTENTION}.q_proj", _query_halves),
    *_both("blk.*.attn_k", f"{_ATTENTION}.k_proj", _key_halves),
    *DECODER,
)
"""The same where the converter ordered the rows of queries and keys: the first rule that is of a name counts."""
_NORMS_OF_BRANCHES = (
    _one("blk.*.post_attention_norm.weight", f"{_LAYER}.post_attention_layernorm.weight"),
    _one("blk.*.post_ffw_norm.weight", f"{_LAYER}.post_feedforward_layernorm.weight"),
)
SANDWICH = (
    *_NORMS_OF_BRANCHES,
    _one("blk.*.ffn_norm.weight", f"{_LAYER}.pre_feedforward_layernorm.weight"),
    *DECODER,
)
"""Norms on both sides of a branch; the converter has added the one that their gains lack."""
NORMS_AFTER = (*_NORMS_OF_BRANCHES, *DECODER)
"""Norms of what a branch gives."""
FUSED = (
    *(
        Rule(
            theirs=f"blk.*.attn_qkv.{part}",
            ours=tuple(f"{_ATTENTION}.{letter}_proj.{part}" for letter in "qkv"),
            change=_projections,
        )
        for part in ("weight", "bias")
    ),
)
"""One projection for queries, keys and values, in this order."""
POSITIONS = (_one("position_embd.weight", "embed_positions.weight"),)
GATE_AND_UP = (
    Rule(
        theirs="blk.*.ffn_up.weight", ours=(f"{_MLP}.gate_proj.weight", f"{_MLP}.up_proj.weight"), change=_gate_and_up
    ),
)
"""One projection for the gate and what it multiplies, in this order."""
