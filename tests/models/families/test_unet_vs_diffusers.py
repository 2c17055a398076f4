"""The UNet against the diffusers library's two UNets: same tensor names, same numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.unet import UNet, UNetConfig, digits_unet_config

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-5  # float32, relative to the largest output
DOUBLE_TOLERANCE = 1e-11  # float64, relative to the largest gradient of a tensor: what is left is the order of sums

SMALL = {
    "sample_size": 16,
    "in_channels": 2,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 6,
}

UNCONDITIONAL: dict[str, dict[str, Any]] = {
    "plain": {**SMALL, **PLAIN, "attention_head_dim": 4},
    "one level": {**SMALL, "block_out_channels": (8,), "down_block_types": ("DownBlock2D",)}
    | {"up_block_types": ("AttnUpBlock2D",), "attention_head_dim": 2},
    "attention at every level": {
        **SMALL,
        "down_block_types": ("AttnDownBlock2D",) * 2,
        "up_block_types": ("AttnUpBlock2D",) * 2,
        "attention_head_dim": 4,
    },
    "as in the DDPM checkpoints": {
        **SMALL,
        "block_out_channels": (8, 8, 12),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "class-conditional": {**SMALL, **PLAIN, "attention_head_dim": 8, "num_class_embeds": 5},
    "up unlike down": {
        **SMALL,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
    },
    "residual blocks that resample": {
        **SMALL,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
    },
    "attention blocks that resample": {
        **SMALL,
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": 4,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "act_fn": "gelu",
    },
    "a scaled middle of its own groups": {
        **SMALL,
        **PLAIN,
        "attention_head_dim": 8,
        "mid_block_scale_factor": 1.41,
        "attn_norm_num_groups": 2,
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "mish",
    },
    "no attention in the middle": {**SMALL, **PLAIN, "add_attention": False, "act_fn": "relu"},
    "no middle, a centered sample": {**SMALL, **PLAIN, "mid_block_type": None, "center_input_sample": True},
    "Fourier features of the noise level": {
        **SMALL,
        **PLAIN,
        "attention_head_dim": 4,
        "time_embedding_type": "fourier",
        "time_embedding_dim": 24,
    },
    "a learned time, classes as steps": {
        **SMALL,
        **PLAIN,
        "attention_head_dim": 4,
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
        "num_class_embeds": 5,
        "class_embed_type": "timestep",
    },
    "digits": {k: v for k, v in digits_unet_config().to_dict().items() if k != "null_class"},
}
CONDITIONAL: dict[str, dict[str, Any]] = {
    "convolutions around the Transformer": {**SMALL, **CROSS, "num_attention_heads": 2},
    "linear layers around the Transformer": {**SMALL, **CROSS, "num_attention_heads": 4, "use_linear_projection": True},
    "as in Stable Diffusion 2: heads per level": {
        **SMALL,
        "block_out_channels": (8, 12, 16),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "cross_attention_dim": 10,
        "num_attention_heads": (2, 3, 4),
        "use_linear_projection": True,
    },
    "several Transformer blocks per level, and classes": {
        **SMALL,
        **CROSS,
        "num_attention_heads": 4,
        "transformer_layers_per_block": (1, 2),
        "num_class_embeds": 7,
    },
    "levels that attend to the context alone": {
        **SMALL,
        **CROSS,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "num_attention_heads": 2,
        "only_cross_attention": (True, False),
    },
    "self- and cross-attention": {
        **SMALL,
        **CROSS,
        "down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": 4,
        "num_attention_heads": 4,
        "downsample_padding": 0,
        "freq_shift": 1,
    },
}
ALL = [*UNCONDITIONAL, *CONDITIONAL]
OF_THE_CONDITIONAL = (
    "num_attention_heads",
    "transformer_layers_per_block",
    "cross_attention_dim",
    "use_linear_projection",
    "only_cross_attention",
    "time_cond_proj_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
"""Fields that ours has of both of diffusers' classes, and its UNet2DModel does not know."""


def their_model(name: str) -> nn.Module:
    """Diffusers' UNet with every tensor random, norms and biases too, so that none can be mixed up unseen."""
    torch.manual_seed(0)
    if name in UNCONDITIONAL:
        fields = dict(UNCONDITIONAL[name])
        for conditional in OF_THE_CONDITIONAL:
            fields.pop(conditional, None)
        model = diffusers.UNet2DModel(**fields)
    else:
        fields = dict(CONDITIONAL[name])
        # What diffusers' conditional UNet calls attention_head_dim is the number of heads.
        fields["attention_head_dim"] = fields.pop("num_attention_heads")
        model = diffusers.UNet2DConditionModel(**fields)
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def our_model(name: str) -> UNet:
    return made({**UNCONDITIONAL, **CONDITIONAL}[name])


def made(fields: dict[str, Any]) -> UNet:
    """Ours, of what config.json would hold."""
    return UNet(UNetConfig.from_dict(json.loads(json.dumps(fields)))).eval()


def inputs(config: UNetConfig, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(1)
    unit = config.multiple_of
    found: dict[str, Tensor] = {
        "sample": torch.randn(3, config.in_channels, 2 * unit, 3 * unit, dtype=dtype),
        "timestep": torch.tensor([0.0, 371.25, 999.0]),
    }
    if config.time_embedding_type == "fourier":  # the logarithm of a level above 0
        found["timestep"] = torch.tensor([0.01, 1.25, 50.0])
    elif config.time_embedding_type == "learned":
        found["timestep"] = torch.tensor([0, 371, 999])
    if config.num_class_embeds is not None:
        found["class_labels"] = torch.tensor([0, 2, config.num_class_embeds - 1])
    if config.cross_attention_dim is not None:
        found["encoder_hidden_states"] = torch.randn(3, 5, config.cross_attention_dim, dtype=dtype)
    return found


@pytest.mark.parametrize("name", ALL)
def test_their_weights_load_as_they_are_and_give_their_output(name: str) -> None:
    theirs, ours = their_model(name), our_model(name)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    feeds = inputs(ours.config)
    with torch.no_grad():
        expected, actual = theirs(**feeds).sample, ours(**feeds)
    assert actual.shape == expected.shape == (3, ours.config.out_channels, *feeds["sample"].shape[2:])
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", ALL)
def test_our_weights_load_into_theirs(name: str) -> None:
    state = our_model(name).state_dict()
    theirs = their_model(name)
    theirs.load_state_dict(state, strict=True)
    loaded = theirs.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("name", ["as in the DDPM checkpoints", "several Transformer blocks per level, and classes"])
def test_the_gradients_are_theirs(name: str) -> None:
    theirs, ours = their_model(name).double(), our_model(name).double()
    ours.load_state_dict(theirs.state_dict())
    feeds = inputs(ours.config, dtype=torch.float64)
    theirs(**feeds).sample.square().mean().backward()
    ours(**feeds).square().mean().backward()
    expected = {k: p.grad for k, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        wanted = expected[key]
        assert parameter.grad is not None
        assert wanted is not None
        scale = wanted.abs().max().clamp(min=1e-3)
        assert (parameter.grad - wanted).abs().max() <= DOUBLE_TOLERANCE * scale, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["as in the DDPM checkpoints", "several Transformer blocks per level, and classes"])
def test_the_comparison_sees_a_change_of_any_tensor(name: str) -> None:
    theirs, ours = their_model(name), our_model(name)
    ours.load_state_dict(theirs.state_dict())
    feeds = inputs(ours.config)
    with torch.no_grad():
        expected = theirs(**feeds).sample
        for key, parameter in ours.named_parameters():
            if key.endswith("to_k.bias"):
                continue  # adds the same to all scores of a query: no effect, by softmax's invariance
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            assert (ours(**feeds) - expected).abs().max() > TOLERANCE * expected.abs().max(), key
            parameter.copy_(kept)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("flip_sin_to_cos", True),
        ("freq_shift", 0),
        ("norm_eps", 1e-2),
        ("downsample_padding", 1),
        ("attention_head_dim", 2),
    ],
)
def test_the_comparison_sees_a_change_of_the_configuration(change: str, value: object) -> None:
    name = "as in the DDPM checkpoints"
    theirs = their_model(name)
    ours = made({**UNCONDITIONAL[name], change: value})
    ours.load_state_dict(theirs.state_dict())
    feeds = inputs(ours.config)
    with torch.no_grad():
        expected = theirs(**feeds).sample
        assert (ours(**feeds) - expected).abs().max() > TOLERANCE * expected.abs().max()


def test_the_number_of_heads_per_level_matters() -> None:
    name = "as in Stable Diffusion 2: heads per level"
    theirs = their_model(name)
    ours = made({**CONDITIONAL[name], "num_attention_heads": 4})
    ours.load_state_dict(theirs.state_dict())
    feeds = inputs(ours.config)
    with torch.no_grad():
        expected = theirs(**feeds).sample
        assert (ours(**feeds) - expected).abs().max() > TOLERANCE * expected.abs().max()


def test_weights_of_another_configuration_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        our_model("attention at every level").load_state_dict(their_model("plain").state_dict())
