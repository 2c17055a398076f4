"""A UNet from pictures to pictures, as pix2pix has it: it colors emoji."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from quant_entry import Entry
from quant_judges import PsnrJudge
from torch import Tensor, nn

import aigc_export
from trained.data import emoji
from trained.loop import descend, load_weights, save_weights
from trained.recipe import Recipe, Training

__all__ = ["COLORING"]

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in gray (ITU-R BT.601)."""
FLIPPED = 0.5
CALIBRATED = 1024


class ColoringUNet(nn.Module):
    """Strided convolutions down, transposed ones up, each level's features beside what comes from below.

    (Isola et al. 2017, appendix 6.1: batch norms, LeakyReLU down and ReLU up, tanh.)

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        down, up = (width, 2 * width, 4 * width, 4 * width), (4 * width, 2 * width, width)
        self.down = nn.ModuleList()
        self.down_norms = nn.ModuleList()
        for level, (taken, given) in enumerate(zip((1, *down[:-1]), down, strict=True)):
            self.down.append(nn.Conv2d(taken, given, 4, 2, 1, bias=level == 0))
            self.down_norms.append(nn.Identity() if level == 0 else nn.BatchNorm2d(given))
        self.up = nn.ModuleList()
        self.up_norms = nn.ModuleList()
        for level, given in enumerate(up):
            self.up.append(
                nn.ConvTranspose2d(down[-1] if level == 0 else 2 * up[level - 1], given, 4, 2, 1, bias=False)
            )
            self.up_norms.append(nn.BatchNorm2d(given))
        self.last = nn.ConvTranspose2d(2 * up[-1], 3, 4, 2, 1)

    def forward(self, gray: Tensor) -> dict[str, Tensor]:
        """[B, 1, H, W] -> color [B, 3, H, W], both in [-1, 1]."""
        x, skips = gray, []
        for convolution, norm in zip(self.down, self.down_norms, strict=True):
            x = F.leaky_relu(norm(convolution(x)), 0.2)
            skips.append(x)
        x = skips.pop()
        for convolution, norm in zip(self.up, self.up_norms, strict=True):
            x = torch.cat([torch.relu(norm(convolution(x))), skips.pop()], dim=1)
        return {"color": torch.tanh(self.last(x))}


def to_gray(color: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 1, H, W]."""
    return (color * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)


def train_coloring(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """L1 to the colors, pictures mirrored half of the time; without pix2pix's game, which takes longer than minutes."""
    torch.manual_seed(training.seed)
    pictures, model = torch.from_numpy(emoji(training.size)[0]), ColoringUNet(training.width)

    def loss(rng: torch.Generator) -> Tensor:
        color = pictures[torch.randint(len(pictures), (training.batch_size,), generator=rng)]
        if torch.rand(1, generator=rng).item() < FLIPPED:
            color = color.flip(-1)
        return F.l1_loss(model(to_gray(color))["color"], color)

    save_weights(model, folder, descend(model, training, loss))


def enter_coloring(training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """As a module of the user's own."""
    learned, held_out = (to_gray(torch.from_numpy(part)) for part in emoji(training.size))
    program = aigc_export.program(
        load_weights(ColoringUNet(training.width), folder),
        {"gray": learned[:2]},
        dims={"gray": {0: "batch"}},
        name="coloring",
    )
    judge = PsnrJudge(rows={"gray": held_out.numpy()}, output="color")
    return Entry(program=program, rows={"gray": learned[:CALIBRATED].numpy()}, judge=judge)


COLORING = Recipe(
    name="coloring",
    about="image-to-image UNet in pix2pix's form, emoji",
    training=Training(steps=1500, batch_size=32, learning_rate=1e-3, size=32, width=32),
    made_by=(ColoringUNet, to_gray, train_coloring, descend, LUMA, FLIPPED),
    train=train_coloring,
    enter=enter_coloring,
)
