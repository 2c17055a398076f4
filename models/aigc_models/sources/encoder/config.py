"""What cannot be known from the tensors of `nn.TransformerEncoder`: given in config.json, never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aigc_models.families.lm_config import Activation, LMConfig
from aigc_models.field_hint import field_hint
from aigc_models.sources.encoder.tensors import EncoderTensors
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["FIELDS", "REQUIRED", "encoder_config", "is_encoder_config"]

REQUIRED: Mapping[str, str] = {
    "nhead": "heads of a layer, nn.TransformerEncoderLayer's argument",
    "activation": '"relu" (its default) or "gelu"',
    "norm_first": "false (its default) or true",
    "scale_embedding": "true where the embedding is multiplied by math.sqrt(d_model), as in the tutorial; else false",
}
"""Field -> what it says."""
_NO_TABLE = ("context_length", "position")
FIELDS = (
    *REQUIRED,
    *_NO_TABLE,
    "layer_norm_eps",
    "embedding",
    "output",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_OTHERS = ("family", "model_type", "architectures", "_class_name")
"""Fields that make a config.json another tool's, or ours."""


def is_encoder_config(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json says what such a model needs, and is of no other kind."""
    return config is not None and not config.keys() & set(_OTHERS) and bool(config.keys() & set(REQUIRED))


def encoder_config(given: Mapping[str, Any] | None, tensors: EncoderTensors, *, source: str, tied: bool) -> LMConfig:
    """Make the configuration of the language model.

    Args:
        given: the content of config.json; None where there is none.
        tensors: of the file.
        source: what holds them, for messages.
        tied: whether the output layer is the embedding.

    Raises:
        CheckpointError: what is missing, with the line to write; an unknown field, or a value that it cannot have.
    """
    values = dict(given or {})
    for name in values:
        if name not in FIELDS:
            raise CheckpointError(
                f"config.json of an nn.TransformerEncoder has no field {name!r}",
                hint=field_hint(name, FIELDS),
            )
    missing = [name for name in REQUIRED if name not in values]
    if tensors.positions is None:
        missing += [name for name in _NO_TABLE if values.get(name) is None]
    if missing:
        raise _missing(missing, tensors, source)
    heads = values["nhead"]
    if type(heads) is not int or heads < 1 or tensors.width % heads:
        raise _wrong("nhead", heads, f"a divisor of the width {tensors.width}: {_divisors(tensors.width)}")
    activations: dict[object, Activation] = {"relu": "relu", "gelu": "gelu"}
    if values["activation"] not in list(activations):  # whatever it is
        raise _wrong("activation", values["activation"], "relu or gelu")
    for name in ("norm_first", "scale_embedding"):
        if type(values[name]) is not bool:
            raise _wrong(name, values[name], "true or false")
    eps = values.get("layer_norm_eps", 1e-5)
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise _wrong("layer_norm_eps", eps, "a number above 0 (PyTorch's default is 1e-05)")
    if values.get("position") not in (None, "sinusoidal"):
        raise _wrong("position", values["position"], '"sinusoidal" (Vaswani 2017), or have the table in the file')
    return LMConfig(
        vocab_size=tensors.vocab_size,
        context_length=_context(values.get("context_length"), tensors.context_length),
        d_model=tensors.width,
        n_layers=tensors.layers,
        n_heads=heads,
        d_ff=tensors.feed_forward,
        norm="layernorm",
        norm_position="pre" if values["norm_first"] else "post",
        activation=activations[values["activation"]],
        position="sinusoidal" if tensors.positions is None else "learned",
        norm_eps=float(eps),
        qkv_bias=tensors.biases,
        out_bias=tensors.biases,
        mlp_bias=tensors.biases,
        head_bias=tensors.head_bias is not None,
        embedding_scale=math.sqrt(tensors.width) if values["scale_embedding"] else 1.0,
        tie_embeddings=tied,
        final_norm=tensors.final_norm,
    )


def _context(given: object, table: int | None) -> int:
    if given is None:
        assert table is not None
        return table
    most = table if table is not None else 2**24
    if type(given) is not int or not 1 <= given <= most:
        raise _wrong("context_length", given, f"a whole number from 1 to {most:,}")
    if table is not None and given != table:
        raise _wrong(
            "context_length", given, f"{table:,}, as the table of positions has, or left out (--context-length)"
        )
    return given


def _missing(missing: list[str], tensors: EncoderTensors, source: str) -> CheckpointError:
    example: dict[str, str] = {
        "nhead": f"ONE OF {_divisors(tensors.width)}",
        "activation": '"relu" OR "gelu"',
        "norm_first": "false OR true",
        "scale_embedding": "true OR false",
        "context_length": "MOST TOKENS",
        "position": '"sinusoidal"',
    }
    line = ", ".join(f'"{name}": {value}' for name, value in example.items() if name in missing)
    means = [f"{name}: {REQUIRED[name]}" for name in missing if name in REQUIRED]
    return CheckpointError(
        f"{source} is a language model of nn.TransformerEncoder ({tensors.layers} layers of {tensors.width}, "
        f"{tensors.vocab_size:,} tokens), whose tensors do not tell {', '.join(missing)}",
        hint="\n".join((f"write into config.json beside it: {{{line}}}", *means)),
    )


def _divisors(width: int) -> str:
    return ", ".join(str(n) for n in range(1, min(width, 128) + 1) if width % n == 0)


def _wrong(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"config.json: {name} is {shown(value)}", hint=f"must be {expected}")
