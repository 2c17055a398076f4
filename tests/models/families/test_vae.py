"""The autoencoder against the diffusers library's: same tensor names, same numbers; its loss against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.vae import AutoencoderKL, VaeConfig, kl_divergence, sample_latent, scaling_factor, vae_loss
from aigc_runtime.errors import ConfigError, FeedError

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-5  # float32, relative to the largest output
DOUBLE_TOLERANCE = 1e-10  # float64, relative to the largest gradient of a tensor

THREE: dict[str, Any] = {
    "block_out_channels": (4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    # Published: 128, 256, 512, 512 channels in 32 groups.
    "as in Stable Diffusion": {
        "block_out_channels": (8, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
    },
    "one level": {"block_out_channels": (4,), "norm_num_groups": 2},
    "other channels": {**THREE, "in_channels": 2, "out_channels": 5, "latent_channels": 3, "act_fn": "mish"},
    "without what can be left out": {
        **THREE,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    },
}


def their_model(name: str) -> Any:
    """Diffusers' autoencoder with every tensor random, norms and biases too."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(**CONFIGS[name])
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def our_model(name: str) -> AutoencoderKL:
    return AutoencoderKL(VaeConfig(**CONFIGS[name])).eval()


def picture(config: VaeConfig, *, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    unit = config.downscale
    return torch.randn(2, config.in_channels, 2 * unit, 3 * unit, dtype=dtype)


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    assert actual.shape == expected.shape
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_their_weights_load_as_they_are_and_give_their_numbers(name: str) -> None:
    theirs, ours = their_model(name), our_model(name)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = picture(ours.config)
    with torch.no_grad():
        expected = theirs.encode(image).latent_dist
        mean, logvar = ours.encode(image)
        assert close(mean, expected.mean)
        assert close((0.5 * logvar).exp(), expected.std)
        latent = torch.randn(mean.shape)
        assert close(ours.decode(latent), theirs.decode(latent).sample)
        if ours.config.in_channels == ours.config.out_channels:
            assert close(ours(image), theirs(image).sample)
    assert mean.shape == (2, ours.config.latent_channels, 2, 3)


def test_the_logarithm_of_the_variance_is_bounded_as_theirs() -> None:
    theirs, ours = their_model("other channels"), our_model("other channels")
    with torch.no_grad():
        theirs.quant_conv.bias[3:] = torch.tensor([-1e4, 1e4, 0.0])
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = theirs.encode(picture(ours.config)).latent_dist
        _, logvar = ours.encode(picture(ours.config))
    assert close(logvar, expected.logvar)
    assert (float(logvar.min()), float(logvar.max())) == (-30.0, 20.0)


def test_the_gradients_are_theirs() -> None:
    theirs, ours = their_model("as in Stable Diffusion").double(), our_model("as in Stable Diffusion").double()
    ours.load_state_dict(theirs.state_dict())
    image = picture(ours.config, dtype=torch.float64)
    theirs(image).sample.square().mean().backward()
    ours(image).square().mean().backward()
    expected = {k: p.grad for k, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        wanted = expected[key]
        assert parameter.grad is not None
        scale = wanted.abs().max().clamp(min=1e-3)
        assert (parameter.grad - wanted).abs().max() <= DOUBLE_TOLERANCE * scale, key


@pytest.mark.slow
def test_the_comparison_sees_a_change_of_any_tensor() -> None:
    theirs, ours = their_model("other channels"), our_model("other channels")
    ours.load_state_dict(theirs.state_dict())
    image = picture(ours.config)
    latent = torch.randn(2, 3, 2, 3)

    def all_of(model: AutoencoderKL) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in (*model.encode(image), model.decode(latent))])

    with torch.no_grad():
        expected = all_of(ours)
        for key, parameter in ours.named_parameters():
            if key.endswith("to_k.bias"):
                continue  # adds the same to all scores of a query: no effect, by softmax's invariance
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            assert not close(all_of(ours), expected), key
            parameter.copy_(kept)


def test_the_divergence_is_that_of_the_formula() -> None:
    """Against torch.distributions, which knows it by itself."""
    torch.manual_seed(0)
    mean, logvar = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    one = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(one, standard).sum(dim=(1, 2, 3))
    assert torch.allclose(kl_divergence(mean, logvar), expected, rtol=1e-5)


def test_a_latent_is_drawn_and_scaled_by_the_formulas() -> None:
    torch.manual_seed(0)
    mean, logvar = 3 + 2 * torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    drawn = torch.stack([sample_latent(mean, logvar, torch.Generator().manual_seed(i)) for i in range(2000)])
    assert torch.allclose(drawn.mean(0), mean, atol=6 * float(torch.exp(0.5 * logvar).max()) / 2000**0.5)
    assert scaling_factor(mean, logvar) == pytest.approx(1 / float(drawn.std()), rel=0.01)
    with pytest.raises(ConfigError, match=r"the latents' variance is 0.0\nthe autoencoder has learned nothing"):
        scaling_factor(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), -torch.inf))


def test_the_loss_is_the_absolute_error_and_the_weighted_divergence() -> None:
    image, decoded = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.25)
    mean, logvar = torch.full((2, 3, 1, 1), 2.0), torch.zeros(2, 3, 1, 1)
    # 1/2 mean^2 of each of three numbers is 6, over the four of a picture
    assert float(vae_loss(image, decoded, mean, logvar, kl_weight=0.1)) == pytest.approx(0.25 + 0.1 * 6 / 4)


@pytest.mark.slow
def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(VaeConfig(**THREE, in_channels=1, out_channels=1)).train()
    image = torch.randn(4, 1, 8, 8).clamp(-1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        rng = torch.Generator().manual_seed(3)
        mean, logvar = model.encode(image)
        decoded = model.decode(sample_latent(mean, logvar, rng))
        loss = vae_loss(image, decoded, mean, logvar, kl_weight=1e-3)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_a_side_that_cannot_be_halved() -> None:
    model = our_model("as in Stable Diffusion")
    with pytest.raises(FeedError, match="image is 16 high and 20 wide\nboth sides must be multiples of 8"):
        model.encode(torch.zeros(1, 3, 16, 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0.0"),
        ({"scaling_factor": True}, "scaling_factor is True"),
        ({"block_out_channels": ()}, r"block_out_channels is \(\)"),
        ({"block_out_channels": (3, 4, 4)}, "block_out_channels holds 3\nmust be multiples of norm_num_groups = 2"),
        ({"down_block_types": ("DownEncoderBlock2D",) * 2}, "must be a tuple of 3"),
        ({"up_block_types": ("AttnUpDecoderBlock2D",) * 3}, "up_block_types is 'AttnUpDecoderBlock2D'"),
        ({"use_quant_conv": None}, "use_quant_conv is None"),
    ],
)
def test_values_that_make_no_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VaeConfig(**{**THREE, **change})


def test_a_configuration_is_written_and_read() -> None:
    config = VaeConfig(**CONFIGS["without what can be left out"])
    assert VaeConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="has no field 'latent_channel'"):
        VaeConfig.from_dict({"latent_channel": 4})
