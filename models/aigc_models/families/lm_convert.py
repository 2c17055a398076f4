"""Rename the tensors of other implementations to those of `TransformerLM`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from aigc_runtime.errors import ConfigError

__all__ = ["from_transformer_encoder"]


def from_transformer_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of `torch.nn.TransformerEncoder` to this model's.

    Args:
        state: state dict of an encoder (`layers.0.self_attn.in_proj_weight`, ...).

    Returns:
        The blocks' tensors under this model's names; embeddings and the output layer are not part of an encoder.

    Raises:
        ConfigError: a tensor that an encoder does not have.
    """
    renamed = {
        "self_attn.out_proj": "self_attn.o_proj",
        "linear1": "mlp.up_proj",
        "linear2": "mlp.down_proj",
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
    }
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, _, leaf = name.rpartition(".")
        head, layer, *rest = [*prefix.split(".", 2), "", ""]
        if name.startswith("norm."):
            out[name] = tensor
        elif leaf in ("in_proj_weight", "in_proj_bias"):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{prefix}.{part}_proj.{leaf.removeprefix('in_proj_')}"] = chunk
        elif head == "layers" and rest[0] in renamed:
            out[f"layers.{layer}.{renamed[rest[0]]}.{leaf}"] = tensor
        else:
            raise ConfigError(f"tensor {name!r} is not one of torch.nn.TransformerEncoder")
    return out
