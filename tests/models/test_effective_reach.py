"""How near to a cut a result is that of the whole picture: against networks whose reach is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_models.effective_reach import effective_reach, textured_picture


class Fading(nn.Module):
    """Each pixel adds what is left and right of it, by halves: 2^-d at a distance of d, twice as large."""

    def __init__(self, radius: int, scale: int = 2) -> None:
        super().__init__()
        weights = torch.tensor([0.5 ** abs(d) for d in range(-radius, radius + 1)])
        self.register_buffer("weights", weights[None, None, None])
        self.radius, self.scale = radius, scale

    def forward(self, image: Tensor) -> Tensor:
        rows = image.shape[1]
        weights = self.get_buffer("weights").expand(rows, 1, 1, -1)
        summed = nn.functional.conv2d(image, weights, padding=(0, self.radius), groups=rows)
        return nn.functional.interpolate(summed, scale_factor=self.scale, mode="nearest")


def measured(model: nn.Module, **changed: Any) -> int:
    given: dict[str, Any] = {"channels": 3, "farthest": 32, "multiple_of": 1, "tolerance": 0.0}
    return effective_reach(model, **(given | {"value_range": (0.0, 1.0)} | changed))


@pytest.mark.parametrize("radius", [0, 1, 7, 31])
def test_without_tolerance_it_is_the_reach(radius: int) -> None:
    # What a pixel beyond adds to a sum of float32 must be more than its rounding.
    model = Fading(radius)
    model.get_buffer("weights").fill_(1.0)
    assert measured(model) == radius


def test_with_tolerance_it_is_where_the_rest_is_below_it() -> None:
    picture = textured_picture(3, 64, 96)[0].double().numpy()
    for tolerance in (0.1, 0.01, 0.001):
        # What is cut off of the sum at a pixel that has d others between it and the cut.
        far = 32 + np.arange(32)[:, None] - np.arange(32)
        halves = np.where(far <= 32, 0.5**far, 0.0)
        rest = np.einsum("chw,dw->dch", picture[:, :, :32], halves).max(axis=(1, 2))
        expected = next(d for d in range(33) if all(r <= tolerance for r in rest[d:]))
        assert measured(Fading(32), tolerance=tolerance) == expected
        assert 0 < expected < 32


def test_it_is_counted_in_the_range_of_the_model() -> None:
    assert measured(Fading(32), tolerance=0.01, value_range=(-1.0, 1.0)) in range(5, 9)
    assert measured(Fading(32), tolerance=0.01, multiple_of=4) % 4 == 0
    assert measured(Fading(32), tolerance=0.01, multiple_of=4) >= measured(Fading(32), tolerance=0.01)


def test_what_never_fades_is_the_farthest() -> None:
    class Mean(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image - image.mean(dim=(2, 3), keepdim=True)

    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * torch.nan

    assert measured(Mean(), tolerance=1e-4) == 32
    assert measured(Broken(), tolerance=1e-4) == 32


def test_the_picture_is_one_with_edges_and_equal_every_time() -> None:
    picture = textured_picture(3, 64, 96)
    assert picture.shape == (1, 3, 64, 96)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < 0.1 < 0.9 < picture.max() <= 1
    assert picture.diff(dim=-1).abs().max() > 0.3
    assert torch.equal(picture, textured_picture(3, 64, 96))
