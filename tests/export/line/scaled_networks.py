"""Networks whose channels have scales that one range cannot hold: at one place, or at every one."""

from __future__ import annotations

import torch
from torch import nn

from aigc_models.program import Program
from aigc_models.sources.module import make_part, make_program

SCALE = 1000.0
WIDTH = 16


class TwoScales(nn.Module):
    """A trunk of convolutions, and beside it a branch whose values are 1000 times as large where both meet.

    SiLU lies in between, so that no channel can be scaled to another's magnitude beforehand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.trunk = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(4))
        self.branch = nn.Conv2d(WIDTH, 4, 1)
        self.meet = nn.Conv2d(WIDTH + 4, WIDTH, 3, padding=1)
        self.tail = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(WIDTH, 3, 3, padding=1)
        with torch.no_grad():
            self.branch.weight *= SCALE
            self.meet.weight[:, WIDTH:] /= SCALE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, 3, H, W] to the same."""
        h = nn.functional.silu(self.first(x))
        for layer in self.trunk:
            h = h + nn.functional.silu(layer(h))
        h = nn.functional.silu(self.meet(torch.cat([h, nn.functional.silu(self.branch(h))], dim=1)))
        for layer in self.tail:
            h = h + nn.functional.silu(layer(h))
        result: torch.Tensor = self.last(h)
        return result


class ScaledEverywhere(nn.Module):
    """Every layer has channels of scales from 0.03 to 30, and reads each as if it were of scale 1."""

    scales: torch.Tensor

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        layers_made = [nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(layers)]
        self.layers = nn.ModuleList(layers_made)
        scales = torch.logspace(-1.5, 1.5, WIDTH).view(1, -1, 1, 1)
        self.register_buffer("scales", scales)
        with torch.no_grad():
            for layer in layers_made:
                layer.weight.normal_(std=2 / WIDTH**0.5).div_(scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, 16, H, W] to the same."""
        for layer in self.layers:
            x = layer(nn.functional.silu(x) * self.scales)
        return x


def program(module: nn.Module, channels: int, name: str) -> Program:
    """A program of one module that takes pictures of 16 x 16 pixels."""
    example = torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return make_program(module.eval(), {"x": example}, dims={"x": {0: "batch"}}, name=name)


def two_scales() -> Program:
    """A network that one site in float saves."""
    torch.manual_seed(0)
    return program(TwoScales(), 3, "two-scales")


def scaled_everywhere() -> Program:
    """A network that nothing saves but float."""
    torch.manual_seed(0)
    return program(ScaledEverywhere(), WIDTH, "scaled-everywhere")


class Before(nn.Module):
    """A few plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, 3, 3, padding=1))

    def forward(self, picture: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map [N, 3, H, W] to the same."""
        return {"x": self.layers(picture)}


def two_parts() -> Program:
    """A program of two engines, in whose second one site does the harm."""
    from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

    torch.manual_seed(0)
    example = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = {0: "batch"}
    parts = [
        make_part(Before().eval(), {"picture": example}, dims={"picture": rows}, name="before"),
        make_part(TwoScales().eval(), {"x": example}, dims={"x": rows}, name="after"),
    ]
    stages = (Stage(role="before"), Stage(role="after"))
    return make_program(parts, name="two-parts", settings=TensorsSettings(stages=stages))
