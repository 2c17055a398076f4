"""The loss of upscalers by hand, and that a step of it learns."""

from __future__ import annotations

import math

import pytest
import torch

from aigc_models.families.gan import non_saturating_loss
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.families.super_resolution import super_resolution_loss, super_resolution_step
from aigc_runtime.errors import ConfigError


def test_the_loss_is_the_mean_distance_and_the_game() -> None:
    predicted, target = torch.tensor([[[[0.25, 0.5]]]]), torch.tensor([[[[0.75, 0.25]]]])
    assert super_resolution_loss(predicted, target).item() == 0.375
    # -log sigmoid(0) = log 2
    loss = super_resolution_loss(predicted, target, logits=torch.zeros(1), gan=non_saturating_loss, gan_weight=0.1)
    assert loss.item() == pytest.approx(0.375 + 0.1 * math.log(2))


def test_what_would_be_broadcast_or_left_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the result has shape \[1, 3, 8, 8\], its target \[1, 3, 1, 1\]"):
        super_resolution_loss(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 1, 1))
    with pytest.raises(ConfigError, match="needs logits, gan and gan_weight"):
        super_resolution_loss(torch.zeros(1), torch.zeros(1), gan=non_saturating_loss, gan_weight=0.1)


def test_steps_learn_to_enlarge() -> None:
    torch.manual_seed(0)
    model = SRVGGNet(SRVGGNetConfig(channels=1, num_feat=8, num_conv=1, upscale=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    large = torch.nn.functional.interpolate(torch.rand(8, 1, 4, 4), scale_factor=4.0, mode="bicubic")
    small = torch.nn.functional.avg_pool2d(large, 2)
    losses = [
        super_resolution_step(model, optimizer, images=small, targets=large, max_grad_norm=1.0) for _ in range(40)
    ]
    assert losses[-1] < 0.7 * losses[0]
