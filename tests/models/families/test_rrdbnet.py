"""RRDBNet beside a second reading of the papers, and how far a pixel reaches beside its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig
from aigc_runtime.errors import ConfigError

from . import upscalers

SMALL: dict[str, Any] = {"num_feat": 6, "num_block": 2, "num_grow_ch": 3}


@pytest.mark.parametrize(
    ("more", "scale"),
    [
        ({}, 4),
        ({"unshuffle": 2}, 2),
        ({"unshuffle": 4}, 1),
        ({"upsamples": 3}, 8),
        ({"upsamples": 1, "channels": 1}, 2),
        ({"upsamples": 0}, 1),
    ],
)
def test_it_is_what_the_papers_say(more: dict[str, int], scale: int) -> None:
    torch.manual_seed(1)
    config = RRDBNetConfig(**SMALL, **more)
    model = RRDBNet(config).eval()
    x = torch.rand(2, config.channels, 8, 12)
    with torch.no_grad():
        found = model(x)
        expected = upscalers.rrdbnet(
            model.state_dict(), x, blocks=2, upsamples=config.upsamples, unshuffle=config.unshuffle
        )
    assert config.scale == scale
    assert found.shape == (2, config.channels, 8 * scale, 12 * scale)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"unshuffle": 2}, {"unshuffle": 4}, {"upsamples": 1}, {"upsamples": 0}])
def test_a_pixel_reaches_as_far_as_its_gradient(more: dict[str, int]) -> None:
    """One input pixel at a time, along a line: which results depend on it."""
    torch.manual_seed(2)
    config = RRDBNetConfig(num_feat=2, num_block=1, num_grow_ch=2, channels=1, **more)
    model = RRDBNet(config).double().eval()
    with torch.no_grad():  # no path is cut by a LeakyReLU, nor cancelled by another
        for parameter in model.parameters():
            parameter.copy_(0.1 + parameter.abs())
    # With one row, the reach is that along the width: the same in both directions.
    width, s = 4 * -(-(2 * config.radius + 8) // 4), config.scale
    farthest = 0
    for place in range(width // 2 - 4, width // 2 + 4):
        x = torch.rand(1, 1, max(4, config.unshuffle), width, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x)[0, 0, 0, s * place : s * place + s].sum(), x)
        touched = gradient[0, 0].abs().sum(dim=0).nonzero()[:, 0]
        farthest = max(farthest, place - int(touched[0]), int(touched[-1]) - place)
    assert farthest == config.radius


def test_configurations_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"RRDBNetConfig.upsamples is 4"):
        RRDBNetConfig(upsamples=4)
    with pytest.raises(ConfigError, match=r"RRDBNetConfig.unshuffle is 8"):
        RRDBNetConfig(unshuffle=8)
    with pytest.raises(ConfigError, match=r"RRDBNetConfig.num_block is 0"):
        RRDBNetConfig(num_block=0)
    config = RRDBNetConfig(**SMALL)
    assert RRDBNetConfig.from_dict(config.to_dict()) == config
