"""What a patch discriminator sees, by gradients; that it learns; and that spectral norms bound it."""

from __future__ import annotations

import pytest
import torch

from aigc_models.families.gan import hinge_loss
from aigc_models.families.patch_discriminator import PatchDiscriminator
from aigc_runtime.errors import ConfigError


def test_a_logit_sees_a_patch_of_26_pixels() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(3, 4).double().eval()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 1, 16, 16)
    (gradient,) = torch.autograd.grad(logits[0, 0, 8, 8], image)
    rows = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3))).flatten()
    assert (len(rows), int(rows[-1] - rows[0]) + 1) == (26, 26)


def test_it_learns_to_tell_sharp_from_smooth() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(1, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        real = torch.rand(8, 1, 16, 16)
        fake = torch.nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
        loss = hinge_loss.discriminator(model(real), model(fake))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.0, abs=0.3)  # of logits near zero
    assert losses[-1] < 1.0


def test_no_layer_enlarges_what_it_is_given() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(3, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50.0)
        for _ in range(50):
            model(torch.randn(1, 3, 16, 16))  # power iterations
    for layer in model.layers:
        if isinstance(layer, torch.nn.Conv2d):
            norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert float(norm) == pytest.approx(1.0, abs=0.02)


def test_no_channels() -> None:
    with pytest.raises(ConfigError, match=r"PatchDiscriminator.channels is 0"):
        PatchDiscriminator(0)
