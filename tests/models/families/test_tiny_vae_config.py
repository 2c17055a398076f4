"""Configurations of the tiny autoencoder that make a model, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_models.families.tiny_vae_config import TinyVaeConfig
from aigc_runtime.errors import ConfigError


def test_it_survives_json() -> None:
    config = TinyVaeConfig(latent_channels=16)
    assert TinyVaeConfig.from_dict(config.to_dict()) == config
    assert config.downscale == 8
    assert "sample_size" not in config.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
        ({"num_encoder_blocks": ()}, r"num_encoder_blocks is \(\)"),
        ({"num_decoder_blocks": (3, 3, 3)}, r"num_decoder_blocks is .*\nmust be a tuple of 4"),
        ({"num_decoder_blocks": (3, 0, 3, 1)}, "num_decoder_blocks is 0"),
        ({"encoder_block_out_channels": (64, 32, 64, 64)}, r"must be the same at all levels"),
        ({"decoder_block_out_channels": 64}, "decoder_block_out_channels is 64"),
    ],
)
def test_what_makes_no_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TinyVaeConfig(**change)
