from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aigc_models.data.image_resize import as_channels, cut_to_aspect, resize


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_by_area_a_pixel_is_the_mean_of_what_it_covers() -> None:
    # 3 -> 2: each new pixel covers one and a half old ones
    row = np.array([[[3.0, 6.0, 9.0]]])
    np.testing.assert_allclose(resize(row, 1, 2), [[[(3 + 0.5 * 6) / 1.5, (0.5 * 6 + 9) / 1.5]]])
    np.testing.assert_allclose(resize(row.transpose(0, 2, 1), 2, 1)[0, :, 0], [4, 8])


@pytest.mark.parametrize(("old", "new"), [((12, 8), (4, 4)), ((64, 64), (32, 16)), ((9, 9), (3, 1))])
def test_whole_ratios_agree_with_pytorch(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = draw(3, *old)
    expected = F.interpolate(torch.from_numpy(x)[None], size=new, mode="area")[0].numpy()
    np.testing.assert_allclose(resize(x, *new), expected, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (16, 16)), ((5, 7), (9, 11)), ((1, 1), (4, 4))])
def test_growing_is_linear_as_pytorch_has_it(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = draw(2, *old)
    expected = F.interpolate(torch.from_numpy(x)[None], size=new, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(resize(x, *new), expected, atol=1e-6)


@pytest.mark.parametrize("new", [(1, 1), (7, 13), (31, 29), (40, 50)])
def test_any_size_keeps_range_constants_and_when_shrinking_the_mean(new: tuple[int, int]) -> None:
    x = draw(1, 37, 41)
    y = resize(x, *new)
    assert y.shape == (1, *new)
    assert x.min() <= y.min() <= y.max() <= x.max()
    np.testing.assert_allclose(resize(np.full((1, 37, 41), 0.3, np.float32), *new), 0.3, atol=1e-7)
    if new[0] <= 37 and new[1] <= 41:
        assert y.mean() == pytest.approx(x.mean(), abs=1e-6)


def test_the_own_size_is_left_as_it_is() -> None:
    x = draw(3, 5, 6)
    assert resize(x, 5, 6) is x


def test_the_middle_is_cut_out() -> None:
    x = np.arange(5 * 8).reshape(1, 5, 8)
    np.testing.assert_array_equal(cut_to_aspect(x, 16, 16), x[:, :, 1:6])
    np.testing.assert_array_equal(cut_to_aspect(x.transpose(0, 2, 1), 16, 16), x.transpose(0, 2, 1)[:, 1:6])
    assert cut_to_aspect(x, 10, 16) is not None
    assert cut_to_aspect(x, 10, 16).shape == (1, 5, 8)
    assert cut_to_aspect(np.zeros((1, 1, 1000)), 64, 64).shape == (1, 1, 1)


def test_channels() -> None:
    x = np.array([0.5, -0.25, 1.0]).reshape(3, 1, 1)
    assert as_channels(x, 1).item() == pytest.approx(0.299 * 0.5 - 0.587 * 0.25 + 0.114)
    assert as_channels(x, 3) is x
    gray = draw(1, 3, 3)
    np.testing.assert_array_equal(as_channels(gray, 3), np.concatenate([gray] * 3))
    np.testing.assert_allclose(as_channels(as_channels(gray, 3), 1), gray, atol=1e-7)
