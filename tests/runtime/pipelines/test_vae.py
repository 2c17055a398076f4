"""Latents decoded in tiles: each pixel is a mean of the tiles over it, whose weights fall towards their edges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.pipelines.vae import check_tile, decode, run_rows


def session(rows: tuple[int, int | None] = (1, None), side: int | str = "height") -> ArraySession:
    """A decoder whose picture depends on all of its input: the mean of the tile is added to every pixel."""

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        z = values["latent"].repeat(2, axis=2).repeat(2, axis=3)
        mean = values["latent"].mean(axis=(1, 2, 3), keepdims=True)
        return {"image": np.repeat(z[:, :1] + mean, 3, axis=1)}

    sides = (side, "width" if isinstance(side, str) else side)
    large = (f"2*{sides[0]}", f"2*{sides[1]}") if isinstance(side, str) else (2 * side, 2 * side)
    dims = [DimSpec(name="batch", min=rows[0], max=rows[1])]
    if isinstance(side, str):
        dims += [DimSpec(name=name, min=1, max=200) for name in sides]  # type: ignore[arg-type]
    return ArraySession(
        run,
        Interface(
            inputs=(TensorSpec(name="latent", dtype="float32", shape=("batch", 1, *sides)),),
            outputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, *large)),),
            dims=tuple(dims),
        ),
    )


def test_tiles_are_blended_from_one_to_the_next() -> None:
    """Along an axis of two tiles of 8 that share 2 latents: 4 pixels, whose weights are 1/8, 3/8, 5/8 and 7/8."""
    latent = np.zeros((1, 1, 8, 14), dtype=np.float32)
    latent[..., 7:] = 1
    found = decode(session(), latent, 2, 8)[0, 0, 0]
    left, right = 1 / 8, 7 / 8  # means of the tiles
    np.testing.assert_allclose(found[:12], [left] * 12, rtol=1e-6)
    np.testing.assert_allclose(found[16:], [1 + right] * 12, rtol=1e-6)
    shares = np.array([1, 3, 5, 7]) / 8
    base = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(found[12:16], base + (1 - shares) * left + shares * right, rtol=1e-6)


def test_a_tile_is_chosen_by_what_the_engine_takes() -> None:
    assert check_tile(None, session(), (96, 40)) is None
    assert check_tile(None, session(), (97, 97)) == 64
    assert check_tile(None, session(), (97, 40)) == 40
    assert check_tile(0, session(), (120, 120)) is None
    assert check_tile(20, session(), (120, 120)) == 20
    assert check_tile(None, session(side=16), (16, 16)) is None
    assert check_tile(None, session(side=16), (40, 20)) == 16


@pytest.mark.parametrize("rows", [(1, None), (1, 2), (2, 2), (3, 4)])
def test_any_number_of_rows_runs(rows: tuple[int, int | None]) -> None:
    latents = np.random.default_rng(0).random((5, 1, 2, 2), np.float32)
    found = run_rows(session(rows), {"latent": latents})["image"]
    expected = np.concatenate([session().run({"latent": latents[i : i + 1]})["image"] for i in range(5)])
    np.testing.assert_array_equal(found, expected)
