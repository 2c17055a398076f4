"""Programs of several parts that are searched in seconds: arrays in a row of small modules."""

from __future__ import annotations

import torch
from torch import nn

from aigc_models.program import Program
from aigc_models.sources.module import make_part, make_program

WIDTH, LOUD = 64, 12.0


class Grow(nn.Module):
    """Gives one channel that is far larger than all others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.loud = nn.Buffer(torch.ones(WIDTH).index_fill(0, torch.tensor([3]), LOUD))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.layer(x) * self.loud}


class Spoiled(nn.Module):
    """Needs the quiet channels as much as the loud one: one range for all of them rounds the quiet ones away."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4 * WIDTH)
        with torch.no_grad():
            self.layer.weight[:, 3] /= LOUD

    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": torch.tanh(self.layer(y))}


class Shrink(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, 5))

    def forward(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"result": self.layers(z)}


def three_parts() -> Program:
    """Of these the middle one loses most in 8 bits."""
    torch.manual_seed(0)
    x = torch.randn(8, WIDTH)
    fed, given = {"first": x}, x
    modules = {"first": Grow().eval(), "middle": Spoiled().eval(), "last": Shrink().eval()}
    parts = []
    for name, (module, tensor) in zip(modules, zip(modules.values(), ("x", "y", "z"), strict=True), strict=True):
        fed = {tensor: given}
        parts.append(make_part(module, fed, dims={tensor: {0: "batch"}}, name=name))
        with torch.no_grad():
            given = next(iter(module(given).values()))
    return make_program(parts, name="three")
