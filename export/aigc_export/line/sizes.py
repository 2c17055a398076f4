"""How large the bundle of a language model will be, per precision: from the shapes of its weights alone.

What a weight takes is what `aigc_calibration.emit` and `aigc_calibration.blocks` store of it: codes, scales and zero
points. Codes of blocks are padded to whole blocks, as MatMulNBits reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aigc_calibration.config import QuantConfig
from aigc_calibration.formats import QdqFormat
from aigc_calibration.lookups import INTEGERS, LEAST_SHARE
from aigc_calibration.plan import HALF_PRECISIONS, as_site_precision
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.lm_shapes import (
    EMBEDDING,
    HEAD,
    INT8_IN_BLOCKS,
    POSITIONS,
    SENSITIVE_INT8,
    WIDE,
    products,
    weight_shapes,
)

__all__ = ["BundleSize", "bundle_size", "cache_bytes", "proof_bytes"]

FLOAT = 4
"""Bytes of a number that stays as it is, and of a scale."""
GRAPH_BYTES_PER_LAYER = 25_000
"""Of the nodes of a layer, with the names of its values (measured)."""
PROOF_TOKENS, PROOF_STEPS, PROOF_ROWS, PROOF_LOGITS = 48, 3, 3, 2**18
"""Of the recorded cases: tokens of a prompt, tokens after it, rows of both cases, and logits of a prompt at most."""
BITS = {"int8-weight": 8, "int4": 4}
"""Of weights that are rounded alone, in blocks."""


@dataclass(frozen=True, kw_only=True)
class BundleSize:
    """Bytes of a bundle's files.

    Attributes:
        weights: of the engine.
        graph: of the engine's nodes, about.
        text: tokenizer and templates.
        proof: recorded logits.
    """

    weights: int
    graph: int
    text: int
    proof: int

    @property
    def total(self) -> int:
        """Bytes of them all."""
        return self.weights + self.graph + self.text + self.proof


def bundle_size(
    config: LMConfig, precision: str, form: QdqFormat, *, text_bytes: int = 0, quantization: QuantConfig | None = None
) -> BundleSize | None:
    """Compute the size of a bundle that holds a graph; None for a mix, which is not known before it is found.

    Args:
        config: of the model.
        precision: of its weights.
        form: of the target's graphs.
        text_bytes: of the tokenizer's files.
        quantization: blocks and what stays float; None takes the defaults.
    """
    if precision not in _KNOWN:
        return None
    precision = form.run_as(precision, in_blocks=INT8_IN_BLOCKS)
    chosen = quantization or QuantConfig(
        sensitive=SENSITIVE_INT8 if precision == "int8" else (), wide=WIDE, block=None
    )  # fmt: skip
    matrices = products(config)
    tables = _tables(config) if form.nbits and _in_integers(precision) else {}
    total = 0
    for name, shape in {**weight_shapes(config), **_sinusoid(config)}.items():
        module = name.removesuffix(".weight")
        stays = precision == "fp32" or name not in matrices or bool(chosen.why_float(module))
        if name == HEAD and config.tie_embeddings and precision == "fp32":
            continue  # the graph reads the embedding
        if name in tables and not chosen.why_float(module):
            total += 0 if _shared(config, name, precision, chosen) else _table_bytes(shape, chosen.smallest_block)
        elif stays:
            total += FLOAT * math.prod(shape)
        else:
            total += _product_bytes(matrices[name], precision, form, chosen, wide=chosen.widens(module))
    return BundleSize(
        weights=total,
        graph=GRAPH_BYTES_PER_LAYER * config.n_layers,
        text=text_bytes,
        proof=proof_bytes(config),
    )


_KNOWN = ("fp32", "fp16", "bf16", "fp8", "int8", *BITS)


def _in_integers(precision: str) -> bool:
    return precision != "fp32" and as_site_precision(precision) in INTEGERS


def _tables(config: LMConfig) -> dict[str, tuple[int, ...]]:
    """Tables that are large enough to be stored in 8 bits."""
    shapes = {**weight_shapes(config), **_sinusoid(config)}
    least = LEAST_SHARE * sum(map(math.prod, shapes.values()))
    tables = {name: shapes[name] for name in (EMBEDDING, POSITIONS, *_sinusoid(config)) if name in shapes}
    return {name: shape for name, shape in tables.items() if math.prod(shape) >= least}


def _sinusoid(config: LMConfig) -> dict[str, tuple[int, ...]]:
    """The table of positions that are computed, and stored in the graph."""
    return {"sinusoid": (config.context_length, config.d_model)} if config.position == "sinusoidal" else {}


def _shared(config: LMConfig, name: str, precision: str, chosen: QuantConfig) -> bool:
    """Whether a table is read from the codes of the output layer, which has 8 bits in blocks then."""
    head = HEAD.removesuffix(".weight")
    in_blocks = precision in BITS and not chosen.why_float(head) and (chosen.widens(head) or BITS[precision] == 8)
    in_blocks = in_blocks and chosen.weight_method != "awq"  # whose scales make another matrix of it
    tied = name == EMBEDDING and config.tie_embeddings
    return tied and in_blocks and config.d_model % chosen.smallest_block == 0


def _table_bytes(shape: tuple[int, ...], block: int) -> int:
    rows, width = shape
    return rows * (width + FLOAT * -(-width // block))


def _product_bytes(shape: tuple[int, int], precision: str, form: QdqFormat, chosen: QuantConfig, *, wide: bool) -> int:
    outputs, inputs = shape
    if precision in HALF_PRECISIONS:
        return 2 * outputs * inputs
    if precision in BITS:
        own = as_site_precision("int8-weight" if wide else precision)
        bits, block = 8 if wide else BITS[precision], chosen.block_of(own, inputs)
        blocks = -(-inputs // block)
        stored = blocks * block if form.nbits else inputs
        zero_points = -(-blocks * bits // 8) if chosen.has_zero_points(own) else 0
        return outputs * (stored * bits // 8 + FLOAT * blocks + zero_points)
    return outputs * (inputs + FLOAT + 1)  # codes, and for each channel a scale and a zero point


def proof_bytes(config: LMConfig) -> int:
    """Compute the bytes of the logits that a bundle records."""
    steps = min(PROOF_STEPS, config.context_length // 2)
    prompt = max(1, min(PROOF_TOKENS, config.context_length // 2, config.context_length - steps))
    places = max(1, min(prompt, PROOF_LOGITS // config.vocab_size))
    return FLOAT * config.vocab_size * (places + PROOF_ROWS - 1 + PROOF_ROWS * steps)


def cache_bytes(config: LMConfig, tokens: int) -> int:
    """Compute the bytes of the keys and values of so many tokens of one text."""
    return FLOAT * 2 * config.n_layers * config.kv_heads * config.head_size * tokens
