"""Components of a latent diffusion model that were not trained together are refused with both numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.families.latent_diffusion import check_components
from aigc_models.families.unet_config import UNetConfig
from aigc_models.families.vae_config import VaeConfig
from aigc_runtime.errors import ConfigError

TEXT = ClipTextConfig(hidden_size=24, num_attention_heads=4)
VAE = VaeConfig()
UNET = UNetConfig(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    cross_attention_dim=24,
    norm_num_groups=4,
)


@pytest.mark.parametrize("channels", [4, 9])
def test_those_that_belong_together(channels: int) -> None:
    check_components(TEXT, replace(UNET, in_channels=channels), VAE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"hidden_size": 28}}, "cross_attention_dim is 24, the text encoder's hidden_size 28"),
        ({"unet": {"in_channels": 8}}, "in_channels is 8, the VAE's latent_channels 4"),
        ({"unet": {"in_channels": 5}}, "in_channels is 5, the VAE's latent_channels 4"),
        ({"unet": {"out_channels": 8}}, "out_channels is 8, the VAE's latent_channels 4"),
        ({"vae": {"latent_channels": 16}}, "in_channels is 4, the VAE's latent_channels 16"),
        ({"vae": {"in_channels": 1}}, "the VAE takes 1 channels and gives 3"),
        ({"unet": {"num_class_embeds": 3}}, "num_class_embeds 3"),
    ],
)
def test_those_that_do_not(changes: dict[str, dict[str, Any]], message: str) -> None:
    found: dict[str, Any] = {"text": TEXT, "unet": UNET, "vae": VAE}
    for name, fields in changes.items():
        found[name] = replace(found[name], **fields)
    with pytest.raises(ConfigError, match=message):
        check_components(found["text"], found["unet"], found["vae"])


XL = replace(
    UNET,
    cross_attention_dim=44,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=24 + 10,
)
SECOND = ClipTextConfig(hidden_size=20, num_attention_heads=4, projection_dim=10)


def test_two_text_encoders() -> None:
    check_components(TEXT, XL, VAE, second=SECOND)
    with pytest.raises(ConfigError, match=r"is 44, the text encoders' hidden_size 24 \+ 24"):
        check_components(TEXT, XL, VAE, second=replace(SECOND, hidden_size=24))
    with pytest.raises(ConfigError, match=r"of a text of 10 numbers .* projection_dim is 11"):
        check_components(TEXT, XL, VAE, second=replace(SECOND, projection_dim=11))
    with pytest.raises(ConfigError, match=r"of a text of 0 numbers .* projection_dim is 10"):
        check_components(TEXT, replace(UNET, cross_attention_dim=44), VAE, second=SECOND)
    with pytest.raises(ConfigError, match=r"of a text of 10 numbers .* projection_dim is 0"):
        check_components(TEXT, replace(XL, cross_attention_dim=24), VAE)
