"""Which weights a language model has, and of what shape: from its configuration alone, without PyTorch.

Shapes: D model width, H query heads, N key/value heads, E head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aigc_models.families.lm_config import GATED, LMConfig

__all__ = [
    "EMBEDDING",
    "HEAD",
    "INT8_IN_BLOCKS",
    "POSITIONS",
    "SENSITIVE_INT8",
    "WIDE",
    "count_parameters",
    "products",
    "weight_shapes",
]

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
"""One weight where the model ties them."""
POSITIONS = "embed_positions.weight"
SENSITIVE_INT8 = ("layers.0.mlp.down_proj",)
"""What enters down projections has heavy tails; rounding it in the first one costs most perplexity."""
INT8_IN_BLOCKS = True
"""Whether 8 bits are rounded in blocks where an engine has such kernels: rare activations are a hundred times as large
as the others, which no range that is found ahead holds (Dettmers et al. 2022, LLM.int8(), section 3)."""
WIDE = ("lm_head",)
"""Modules whose weight takes 8 bits where the others take 4."""
_PARTS = {
    "embedding": EMBEDDING,
    "positions": "embed_positions.",
    "layers": "layers.",
    "norm": "norm.",
    "head": "lm_head.",
}


def weight_shapes(config: LMConfig) -> dict[str, tuple[int, ...]]:
    """Name every weight of `TransformerLM`, the names of its state dict, with its shape."""
    d = config.d_model
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, d)}
    if config.position == "learned":
        found[POSITIONS] = (config.context_length, d)
    for layer in range(config.n_layers):
        found |= {f"layers.{layer}.{name}": shape for name, shape in _block(config)}
    if config.final_norm if config.final_norm is not None else config.norm_position != "post":
        found |= _norm(config, "norm")
    return found | _linear("lm_head", d, config.vocab_size, bias=config.head_bias)


def products(config: LMConfig) -> dict[str, tuple[int, int]]:
    """Name every weight that multiplies activations, as a matrix [out, in]: the projections and the output layer."""
    shapes = weight_shapes(config).items()
    return {name: (s[0], s[1]) for name, s in shapes if len(s) == 2 and not name.startswith("embed_")}


def count_parameters(config: LMConfig) -> Mapping[str, int]:
    """Count the parameters of each part: embedding, positions, layers, norm, head; what is tied counts once."""
    counts = dict.fromkeys(_PARTS, 0)
    for name, shape in weight_shapes(config).items():
        if name == HEAD and config.tie_embeddings:
            continue
        part = next(part for part, start in _PARTS.items() if name.startswith(start))
        counts[part] += _size(shape)
    return counts


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) == 2 else 1)


def _block(config: LMConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, e, form = config.d_model, config.head_size, config.norm_position
    queries, keys = config.n_heads * e, config.kv_heads * e
    norms = ["post_attention_layernorm"]
    if form != "output":
        norms.insert(0, "input_layernorm")
    if form == "sandwich":
        norms.append("pre_feedforward_layernorm")
    if form in ("output", "sandwich"):
        norms.append("post_feedforward_layernorm")
    for name in norms:
        yield from _norm(config, name).items()
    for letter, width in (("q", queries), ("k", keys), ("v", keys)):
        yield from _linear(f"self_attn.{letter}_proj", d, width, bias=config.qkv_bias).items()
    yield from _linear("self_attn.o_proj", queries, d, bias=config.out_bias).items()
    if config.qk_norm != "none":
        for letter, width in (("q", queries), ("k", keys)):
            yield f"self_attn.{letter}_norm.weight", (width if config.qk_norm == "width" else e,)
    for name in ("gate_proj", "up_proj") if config.activation in GATED else ("up_proj",):
        yield from _linear(f"mlp.{name}", d, config.d_ff, bias=config.mlp_bias).items()
    yield from _linear("mlp.down_proj", config.d_ff, d, bias=config.mlp_bias).items()


def _norm(config: LMConfig, name: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (config.d_model,)}
    return found if config.norm == "rmsnorm" else {**found, f"{name}.bias": (config.d_model,)}


def _linear(name: str, inputs: int, outputs: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return {**found, f"{name}.bias": (outputs,)} if bias else found
