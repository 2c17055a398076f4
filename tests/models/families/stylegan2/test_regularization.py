"""R1 and path lengths: against what they are for functions whose gradients are known, and for small networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.families.stylegan2.regularization import path_length_penalty, path_lengths, r1_penalty
from aigc_runtime.errors import ConfigError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_r1_of_a_quadratic_is_its_slope() -> None:
    images = torch.randn(5, 2, 3, 3, generator=rng(), dtype=torch.float64).requires_grad_()
    # D(x) = |x|^2 has the slope 2 x, and R1 = gamma / 2 * 4 |x|^2, whose own slope is 4 gamma x / B.
    penalty = r1_penalty(images.square().sum(dim=(1, 2, 3)), images, gamma=3.0)
    expected = 3.0 / 2 * 4 * images.detach().square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    (slope,) = torch.autograd.grad(penalty, images)
    torch.testing.assert_close(slope, 4 * 3.0 * images.detach() / 5)


def test_r1_reaches_the_weights_of_a_discriminator() -> None:
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 1))
    images = torch.randn(3, 3, 2, 2, generator=rng()).requires_grad_()
    torch.autograd.backward(r1_penalty(discriminator(images)[:, 0], images, gamma=10.0))
    gradients = [parameter.grad for parameter in discriminator.parameters() if parameter.grad is not None]
    assert all(gradient.abs().max() > 0 for gradient in gradients[:2])


def test_lengths_are_those_of_the_jacobian() -> None:
    torch.manual_seed(0)
    model = StyleGAN2(StyleGAN2Config(z_size=3, w_size=4, mapping_layers=1, channels=(3, 2))).double()
    styles = torch.randn(2, model.config.num_ws, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    images = model.synthesis(styles, "constant")
    found = path_lengths(images, styles, rng=rng(7))
    side = images.shape[-1]
    y = torch.randn(images.shape, generator=rng(7)).double() / side
    for row in range(2):
        of_row = torch.func.jacrev(lambda w: model.synthesis(w[None], "constant")[0])
        jacobian = of_row(styles[row].detach())
        product = torch.einsum("chw,chwns->ns", y[row], jacobian)
        torch.testing.assert_close(found[row], product.square().sum(dim=1).mean().sqrt())


def test_the_mean_follows_and_the_penalty_is_around_it() -> None:
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    penalty, mean = path_length_penalty(lengths, torch.tensor(0.0), weight=2.0, decay=0.25)
    assert mean.item() == pytest.approx(0.5)
    assert not mean.requires_grad
    assert penalty.item() == pytest.approx(2 * ((1 - 0.5) ** 2 + (3 - 0.5) ** 2) / 2)
    for _ in range(100):
        penalty, mean = path_length_penalty(lengths, mean, weight=2.0, decay=0.25)
    assert mean.item() == pytest.approx(2.0)


def test_what_has_no_gradient_is_refused() -> None:
    images = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ConfigError, match="the images require no gradient"):
        r1_penalty(images.sum(dim=(1, 2, 3)), images, gamma=1.0)
    with pytest.raises(ConfigError, match="the styles require no gradient"):
        path_lengths(images, torch.zeros(1, 1, 2))
