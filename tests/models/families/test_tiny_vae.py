"""The tiny autoencoder against the diffusers library's: same tensor names, same numbers; it learns from a teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aigc_models.families.tiny_vae import AutoencoderTiny, TinyVaeConfig, distillation_loss
from aigc_runtime.errors import FeedError

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-5  # float32, relative to the largest output
DOUBLE_TOLERANCE = 1e-10  # float64, relative to the largest gradient of a tensor

CONFIGS: dict[str, dict[str, Any]] = {
    # Published: 64 channels.
    "as TAESD": {"encoder_block_out_channels": (6,) * 4, "decoder_block_out_channels": (8,) * 4},
    "two levels": {
        "encoder_block_out_channels": (6, 6),
        "decoder_block_out_channels": (5, 5),
        "num_encoder_blocks": (2, 1),
        "num_decoder_blocks": (1, 2),
        "latent_channels": 7,
        "act_fn": "silu",
    },
    "one level": {
        "encoder_block_out_channels": (6,),
        "decoder_block_out_channels": (6,),
        "num_encoder_blocks": (1,),
        "num_decoder_blocks": (1,),
    },
}


def their_model(name: str) -> Any:
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny(**CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def our_model(name: str) -> AutoencoderTiny:
    model = AutoencoderTiny(TinyVaeConfig(**CONFIGS[name])).eval()
    model.load_state_dict(their_model(name).state_dict(), strict=True)
    return model


def picture(config: TinyVaeConfig) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 2 * config.downscale, 3 * config.downscale) * 2 - 1


def far(actual: Tensor, expected: Tensor) -> bool:
    assert actual.shape == expected.shape
    return bool((actual - expected).abs().max() > TOLERANCE * expected.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_their_weights_load_as_they_are_and_give_their_numbers(name: str) -> None:
    theirs, ours = their_model(name), our_model(name)
    image = picture(ours.config)
    with torch.no_grad():
        latent = ours.encode(image)
        assert latent.shape == (2, ours.config.latent_channels, 2, 3)
        assert not far(latent, theirs.encode(image).latents)
        assert far(latent, theirs.encode(image + 0.1).latents)
        wide = 4 * torch.randn(latent.shape)  # beyond what the tangent leaves as it is
        assert not far(ours.decode(wide), theirs.decode(wide).sample)
        assert torch.equal(ours(image), ours.decode(latent))


def test_the_gradients_are_theirs() -> None:
    theirs, ours = their_model("two levels").double(), our_model("two levels").double()
    image = picture(ours.config).double()
    theirs.decode(theirs.encode(image).latents).sample.pow(3).mean().backward()
    ours(image).pow(3).mean().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        wanted = expected[key].grad
        assert parameter.grad is not None
        assert (parameter.grad - wanted).abs().max() <= DOUBLE_TOLERANCE * wanted.abs().max().clamp(min=1e-3), key


def test_the_comparison_sees_a_change_of_any_tensor() -> None:
    ours = our_model("two levels")
    image = picture(ours.config)
    with torch.no_grad():
        expected = ours(image)
        for key, parameter in ours.named_parameters():
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            assert far(ours(image), expected), key
            parameter.copy_(kept)


def test_it_learns_from_a_teacher() -> None:
    torch.manual_seed(0)
    model = AutoencoderTiny(TinyVaeConfig(**CONFIGS["two levels"]))
    image = picture(model.config)
    latent = torch.randn(2, 7, 2, 3)
    steps = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        steps.zero_grad()
        loss = distillation_loss(model, image, latent)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        expected = (model.encode(image) - latent).square().mean() + (model.decode(latent) - image).square().mean()
        found = distillation_loss(model, image, latent)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_side_that_cannot_be_halved() -> None:
    with pytest.raises(FeedError, match="image is 12 high and 16 wide\nboth sides must be multiples of 8"):
        our_model("as TAESD").encode(torch.zeros(1, 3, 12, 16))
