"""Noise in pieces is the noise of whole draws."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.noise import NoiseStream, PiecewiseNormal
from aigc_runtime.generation.rng import TorchGenerator

DRAWS = 4


@pytest.mark.parametrize("total", [1, 5, 15, 16, 17, 31, 32, 33, 40, 100, 160, 1000])
@pytest.mark.parametrize("size", [1, 3, 16, 48, 1000])
def test_pieces_of_several_draws_make_the_whole_ones(total: int, size: int) -> None:
    generator = TorchGenerator(5)
    whole = [generator.randn((total,)) for _ in range(DRAWS)]
    noise = NoiseStream(5, total)
    pieces: list[list[Array]] = [[] for _ in range(DRAWS)]
    for start in range(0, total, size):
        for draw in range(DRAWS):
            pieces[draw].append(noise.take(draw, (min(size, total - start),)))
    for draw in range(DRAWS):
        np.testing.assert_array_equal(np.concatenate(pieces[draw]), whole[draw])


@pytest.mark.parametrize("total", [7, 16, 40, 3 * 2**20 + 5])
def test_the_generator_ends_where_one_draw_ends(total: int) -> None:
    whole, generator = TorchGenerator(1), TorchGenerator(1)
    whole.randn((total,))
    pieces = PiecewiseNormal(generator, total)
    for part in (1, total // 2, total - 1 - total // 2):
        pieces.take(part)
    np.testing.assert_array_equal(generator.rand((4,)), whole.rand((4,)))


def test_a_draw_of_torch_in_pieces() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(2**32 + 3)
    first, second = (torch.randn(5, 3, 4, 4, generator=generator).numpy() for _ in range(2))
    noise = NoiseStream(2**32 + 3, first.size)
    for i in range(5):
        np.testing.assert_allclose(noise.take(0, (3, 4, 4)), first[i], atol=3e-6)
        np.testing.assert_allclose(noise.take(1, (3, 4, 4)), second[i], atol=3e-6)
