"""The DCGAN generator against the row of layers of PyTorch's tutorial."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.dcgan import DCGANConfig, DCGANGenerator
from aigc_runtime.errors import ConfigError


class Tutorial(nn.Module):
    """The tutorial's, with nz, ngf and nc."""

    def __init__(self, nz: int, ngf: int, nc: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.main(x)
        return image


def trained(nz: int = 5, ngf: int = 2, nc: int = 3) -> Tutorial:
    """Random weights and statistics, as after a training."""
    torch.manual_seed(0)
    model = Tutorial(nz, ngf, nc)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
    return model.eval()


@torch.no_grad()
def test_it_is_the_tutorials_generator_by_names_and_by_numbers() -> None:
    theirs = trained()
    ours = DCGANGenerator(DCGANConfig(channels=(5, 16, 8, 4, 2, 3))).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    z = torch.randn(4, 5)
    expected = theirs(z[:, :, None, None])
    assert ours.config.image_size == 64
    assert expected.shape == (4, 3, 64, 64)
    assert torch.equal(ours(z), expected)
    assert not torch.equal(ours(z.flip(0)), expected)


@pytest.mark.parametrize("channels", [(5, 3), (5, 4, 0), (1,) * 12])
def test_bad_sizes(channels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"DCGANConfig\.channels"):
        DCGANConfig(channels=channels)


def test_a_configuration_is_read_as_it_is_written() -> None:
    one = DCGANConfig(channels=(5, 4, 3))
    assert DCGANConfig.from_dict(one.to_dict()) == one
