"""The weights of a language model are those that its module has, whatever its form."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.lm_shapes import count_parameters, products, weight_shapes

SIZES: dict[str, Any] = {
    "vocab_size": 31, "context_length": 16, "d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 10,
    "d_ff": 20,
}  # fmt: skip
FORMS: list[dict[str, Any]] = [
    *({"norm_position": form, "norm": norm} for form, norm in itertools.product(
        ("pre", "post", "output", "sandwich"), ("rmsnorm", "layernorm"))),
    *({"qk_norm": norm} for norm in ("head", "width")),
    *({"position": position, "activation": "gelu"} for position in ("learned", "sinusoidal")),
    {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "head_bias": True},
    {"tie_embeddings": True, "head_bias": True},
    {"norm_position": "post", "final_norm": True},
    {"norm_position": "pre", "final_norm": False, "parallel": True},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_shapes_are_those_of_the_module(form: dict[str, Any]) -> None:
    config = LMConfig(**SIZES, **form)
    with torch.device("meta"):
        module = TransformerLM(config)
    assert weight_shapes(config) == {name: tuple(t.shape) for name, t in module.state_dict().items()}
    assert sum(count_parameters(config).values()) == sum(p.numel() for p in module.parameters())
    linear = {f"{n}.weight": tuple(m.weight.shape) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
    assert products(config) == linear


def test_what_is_counted_where() -> None:
    counts = count_parameters(LMConfig(**SIZES, position="learned", head_bias=True))
    assert counts["embedding"] == 31 * 24
    assert counts["positions"] == 16 * 24
    assert counts["head"] == 31 * 24 + 31
    assert counts["norm"] == 24
    assert counts["layers"] % 2 == 0
    assert counts["layers"] > math.prod((24, 20, 3))
    tied = count_parameters(LMConfig(**SIZES, tie_embeddings=True))
    assert (tied["head"], tied["positions"]) == (0, 0)
