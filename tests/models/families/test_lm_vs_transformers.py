"""Random weights of the transformers library's models give the same logits here: an independent reference."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.rope import RopeConfig

transformers = pytest.importorskip("transformers")

FLOAT_ACCURACY = 1e-4
SHARED: dict[str, Any] = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODERN: dict[str, Any] = {**SHARED, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
OURS: dict[str, Any] = {
    "vocab_size": 60,
    "context_length": 64,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_ff": 48,
}


def shaken(theirs: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return theirs.eval()


def largest_gap(ours: TransformerLM, theirs: torch.nn.Module) -> float:
    ids = torch.randint(60, (2, 23), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((ours.eval()(ids).logits - theirs(ids).logits).abs().max())


def without_prefix(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in theirs.state_dict().items()}


def test_llama() -> None:
    config = transformers.LlamaConfig(**MODERN, rms_norm_eps=1e-5, tie_word_embeddings=False)
    theirs = shaken(transformers.LlamaForCausalLM(config))
    ours = TransformerLM(LMConfig(**OURS))
    ours.load_state_dict(without_prefix(theirs))
    assert largest_gap(ours, theirs) < FLOAT_ACCURACY
    other = TransformerLM(LMConfig(**OURS, rope=RopeConfig(theta=500.0)))
    other.load_state_dict(without_prefix(theirs))
    assert largest_gap(other, theirs) > 10 * FLOAT_ACCURACY


def test_qwen2_with_biases_and_tied_embeddings() -> None:
    config = transformers.Qwen2Config(**MODERN, rms_norm_eps=1e-6, tie_word_embeddings=True)
    theirs = shaken(transformers.Qwen2ForCausalLM(config))
    ours = TransformerLM(LMConfig(**OURS, qkv_bias=True, tie_embeddings=True, norm_eps=1e-6))
    ours.load_state_dict(without_prefix(theirs))
    assert largest_gap(ours, theirs) < FLOAT_ACCURACY


def test_qwen3_with_normalized_heads_of_their_own_width() -> None:
    config = transformers.Qwen3Config(**MODERN, head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=False)
    theirs = shaken(transformers.Qwen3ForCausalLM(config))
    ours = TransformerLM(LMConfig(**OURS, head_dim=12, qk_norm="head", norm_eps=1e-6))
    ours.load_state_dict(without_prefix(theirs))
    assert largest_gap(ours, theirs) < FLOAT_ACCURACY


def test_gpt2() -> None:
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=48, bos_token_id=0, eos_token_id=0
    )
    theirs = shaken(transformers.GPT2LMHeadModel(config))
    ours = TransformerLM(
        LMConfig(
            **{**OURS, "n_kv_heads": None},
            norm="layernorm",
            activation="gelu_tanh",
            position="learned",
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            tie_embeddings=True,
        )
    )
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    assert largest_gap(ours, theirs) < FLOAT_ACCURACY


def from_gpt2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2's names and transposed weights to ours."""
    names = {
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    top = {"wte.weight": "embed_tokens.weight", "wpe.weight": "embed_positions.weight"}
    top |= {"ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}
    out = {}
    for name, tensor in state.items():
        short = name.removeprefix("transformer.")
        block = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", short)
        if block is None:
            out[top.get(short, short)] = tensor
            continue
        layer, part, leaf = block.groups()
        value = tensor.T if leaf == "weight" and not part.startswith("ln") else tensor
        if part == "attn.c_attn":
            for letter, chunk in zip("qkv", value.chunk(3), strict=True):
                out[f"layers.{layer}.self_attn.{letter}_proj.{leaf}"] = chunk
        else:
            out[f"layers.{layer}.{names[part]}.{leaf}"] = value
    return out
