"""Rotary frequencies are those of transformers' own functions, for every scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aigc_models.families.rope import SCALINGS, RopeConfig, attention_factor, rotary_frequencies, rotation_at
from aigc_runtime.errors import ConfigError

transformers = pytest.importorskip("transformers")

FACTORS = tuple(1.0 + 0.1 * i for i in range(8))
CASES: dict[str, tuple[RopeConfig, dict[str, Any]]] = {
    "none": (RopeConfig(theta=5e5), {}),
    "linear": (RopeConfig(theta=5e5, scaling="linear", factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        RopeConfig(theta=5e5, scaling="llama3", factor=32.0, original_context=8192),
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "yarn": (
        RopeConfig(theta=5e5, scaling="yarn", factor=4.0, original_context=2048),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    ),
    "longrope": (
        RopeConfig(
            theta=5e5,
            scaling="longrope",
            factor=4.0,
            original_context=2048,
            short_factors=FACTORS,
            long_factors=tuple(4 * f for f in FACTORS),
        ),
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 2048,
            "short_factor": list(FACTORS),
            "long_factor": [4 * f for f in FACTORS],
        },
    ),
}


def theirs(parameters: dict[str, Any], seq_len: int | None = None) -> tuple[torch.Tensor, float]:
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": 5e5, "rope_type": "default", **parameters},
    )
    if not parameters:
        found = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        rope_utils = transformers.modeling_rope_utils
        found = rope_utils.ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, seq_len=seq_len)
    return found[0], float(found[1])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_frequencies_are_those_of_transformers(scaling: str) -> None:
    rope, parameters = CASES[scaling]
    expected, factor = theirs(parameters)
    ours = rotary_frequencies(rope, 16)
    if scaling == "longrope":
        torch.testing.assert_close(ours[1], theirs(parameters, seq_len=2049)[0], rtol=1e-6, atol=0.0)
        ours = ours[0]
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0.0)
    assert attention_factor(rope) == pytest.approx(factor, rel=1e-12)
    assert (scaling == "none") == torch.allclose(ours, rotary_frequencies(RopeConfig(theta=5e5), 16), rtol=1e-4)


def test_every_row_of_longrope_is_long_by_itself() -> None:
    rope, _ = CASES["longrope"]
    frequencies = rotary_frequencies(rope, 16)
    position = torch.tensor([[0, 2047], [2047, 2048]])
    cos = rotation_at(rope, frequencies, position).cos
    for row, own in enumerate(frequencies):
        expected = (position[row, :, None].float() * own).cos() * attention_factor(rope)
        torch.testing.assert_close(cos[row, 0, :, :8], expected)


def test_a_part_of_the_head_turns_and_the_rest_stays() -> None:
    rope = RopeConfig(rotary_size=4)
    x = torch.randn(1, 2, 3, 10)
    turned = rotation_at(rope, rotary_frequencies(rope, 10), torch.tensor([[0, 1, 2]])).apply(x)
    whole = RopeConfig()
    assert torch.equal(turned[..., 4:], x[..., 4:])
    expected = rotation_at(whole, rotary_frequencies(whole, 4), torch.tensor([[0, 1, 2]])).apply(x[..., :4])
    torch.testing.assert_close(turned[..., :4], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": 0.0}, "RopeConfig.theta is 0.0"),
        ({"rotary_size": 3}, "RopeConfig.rotary_size is 3"),
        ({"scaling": "dynamic"}, "RopeConfig.scaling is 'dynamic'"),
        ({"scaling": "llama3"}, "RopeConfig.original_context is missing with scaling 'llama3'"),
        (
            {"scaling": "llama3", "original_context": 8, "low_freq_factor": 4.0},
            "RopeConfig.low_freq_factor is 4.0, high_freq_factor 4.0",
        ),
        ({"scaling": "longrope", "original_context": 8}, "RopeConfig has 0 short and 0 long factors"),
        ({"short_factors": (1.0,)}, "RopeConfig has 1 short and 0 long factors with scaling 'none'"),
        (
            {"scaling": "longrope", "original_context": 8, "short_factors": (1.0,), "long_factors": (-1.0,)},
            "holds what is not positive",
        ),
    ],
)
def test_bad_configurations_name_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RopeConfig(**change)
    assert message in str(caught.value)


def test_factors_must_be_as_many_as_frequencies() -> None:
    rope, _ = CASES["longrope"]
    rope.check_head(16)
    with pytest.raises(ConfigError, match=r"RopeConfig\.long_factors has 8 factors, expected 4"):
        rope.check_head(8)
    with pytest.raises(ConfigError, match=r"LMConfig\.head_dim is 7"):
        RopeConfig().check_head(7)
