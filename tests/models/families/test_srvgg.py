"""SRVGGNetCompact beside a second reading, with every activation."""

from __future__ import annotations

import pytest
import torch

from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_runtime.errors import ConfigError

from . import upscalers


@pytest.mark.parametrize(("activation", "slope"), [("prelu", None), ("relu", 0.0), ("leakyrelu", 0.1)])
@pytest.mark.parametrize("scale", [1, 3, 4])
def test_it_is_what_was_published(activation: str, slope: float | None, scale: int) -> None:
    torch.manual_seed(1)
    config = SRVGGNetConfig(num_feat=5, num_conv=3, upscale=scale, activation=activation)  # type: ignore[arg-type]
    model = SRVGGNet(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and f"{name.rpartition('.')[0]}.bias" not in model.state_dict():
                parameter.copy_(torch.linspace(-0.3, 0.6, len(parameter)))  # each feature's own slope
        x = torch.rand(2, 3, 7, 9)
        found = model(x)
        expected = upscalers.srvgg(model.state_dict(), x, convs=3, scale=scale, slope=slope)
    assert found.shape == (2, 3, 7 * scale, 9 * scale)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_pixel_reaches_as_far_as_its_gradient() -> None:
    config = SRVGGNetConfig(num_feat=3, num_conv=4, upscale=2)
    model = SRVGGNet(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 + parameter.abs())
    x = torch.rand(1, 3, 2, 40, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0, 0, 0, 40:42].sum(), x)
    touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero()[:, 0]
    assert (20 - int(touched[0]), int(touched[-1]) - 20) == (config.radius, config.radius)


def test_configurations_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"SRVGGNetConfig.upscale is 17"):
        SRVGGNetConfig(upscale=17)
    with pytest.raises(ConfigError, match=r"SRVGGNetConfig.activation is 'gelu'"):
        SRVGGNetConfig(activation="gelu")  # type: ignore[arg-type]
    config = SRVGGNetConfig(num_feat=5)
    assert SRVGGNetConfig.from_dict(config.to_dict()) == config
