"""Patches of pictures: from the files that are there, in their own size, the same again for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc_calibration.errors import CalibrationError
from aigc_export.workloads.samples.upscale import (
    CALIBRATION_PHOTO,
    EVALUATION_PHOTO,
    PatchData,
    folder_patches,
    photo,
    photo_patches,
    varied,
)
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.upscale import UpscaleSettings

SETTINGS = UpscaleSettings(scale=2, channels=3, tile=8, overlap=1, value_range=(-1.0, 1.0))


def never(_feeds: object) -> dict[str, Array]:
    raise AssertionError("patches need no graph")


def inside(patch: Array, picture: Array) -> bool:
    side = patch.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(1, 2))
    return bool((np.abs(windows - patch[:, None, None]).max(axis=(0, 3, 4)) < 1e-6).any())


def test_patches_of_photos_are_parts_of_them() -> None:
    patches = photo_patches(CALIBRATION_PHOTO, SETTINGS, 3, seed=1)
    assert patches.shape == (3, 3, 8, 8)
    assert all(inside(patch, photo(CALIBRATION_PHOTO)) for patch in patches)
    assert not inside(patches[0], photo(EVALUATION_PHOTO))
    np.testing.assert_array_equal(patches, photo_patches(CALIBRATION_PHOTO, SETTINGS, 3, seed=1))
    assert (patches != photo_patches(CALIBRATION_PHOTO, SETTINGS, 3, seed=2)).any()


def test_data_is_in_the_engines_range_and_all_of_it() -> None:
    patches = photo_patches(CALIBRATION_PHOTO, SETTINGS, 5, seed=0)
    data = PatchData(settings=SETTINGS, patches=patches)
    fed = np.concatenate([feeds["image"] for feeds in data.batches(never)])
    np.testing.assert_allclose(fed, 2 * patches - 1, rtol=0, atol=1e-6)
    assert data.samples == data.rows == 5


def test_every_picture_of_a_folder_gives_as_many(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for number in range(3):
        pixels = np.full((20, 9, 3), 50 * number, np.uint8)
        pixels[::2] += 10
        Image.fromarray(pixels).save(tmp_path / "deeper" / f"{number}.png")
    patches, notes = folder_patches(tmp_path, SETTINGS, 7, seed=0)
    assert patches.shape == (7, 3, 8, 8)
    kinds = sorted(round(float(patch.min()) * 255) for patch in patches)
    assert sorted(kinds.count(value) for value in (0, 50, 100)) == [2, 2, 3]
    assert notes == ("7 patches of 8 x 8 from 3 of 3 pictures",)
    few, _ = folder_patches(tmp_path, SETTINGS, 2, seed=0)
    assert len(np.unique(few.min(axis=(1, 2, 3)))) == 2


def test_every_second_patch_is_varied_in_color_and_contrast() -> None:
    patches = photo_patches(CALIBRATION_PHOTO, SETTINGS, 6, seed=1)
    made = varied(patches, seed=0)
    np.testing.assert_array_equal(made[::2], patches[::2])
    for before, after in zip(patches[1::2], made[1::2], strict=True):
        assert (after.min(), after.max()) == (0, 1)
        stretched = (before - before.min()) / (before.max() - before.min())
        found = sorted(float(channel.sum()) for channel in after)
        assert found == pytest.approx(sorted(float(channel.sum()) for channel in stretched), rel=1e-5)
    orders = {tuple(np.argsort(patch.sum(axis=(1, 2))).tolist()) for patch in varied(np.repeat(patches[:1], 40, 0), 0)}
    assert len(orders) == 6  # of three channels
    np.testing.assert_array_equal(made, varied(patches, seed=0))


def test_a_patch_of_one_color_stays_as_it_is() -> None:
    flat = np.full((2, 3, 8, 8), 0.25, np.float32)
    np.testing.assert_array_equal(varied(flat, seed=0), flat)


def test_the_patches_of_each_picture_are_varied_by_themselves(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.full((20, 9, 3), 50 * number, np.uint8)
        pixels[::2] += 10
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    patches, _ = folder_patches(tmp_path, SETTINGS, 6, seed=0, vary=True)
    assert sorted(round(float(patch.max()) * 255) for patch in patches) == [10, 60, 110, 255, 255, 255]
    few, _ = folder_patches(tmp_path, SETTINGS, 3, seed=0, vary=True)
    assert max(float(patch.max()) for patch in few) < 0.5  # one of each: none is its picture's second


def test_a_picture_below_a_tile_is_reflected(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    patches, _ = folder_patches(tmp_path, SETTINGS, 1, seed=0)
    expected = np.pad(pixels, ((0, 5), (0, 3), (0, 0)), "reflect").transpose(2, 0, 1) / 255
    np.testing.assert_allclose(patches[0], expected, rtol=0, atol=1e-6)


def test_what_gives_no_patches_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="holds no pictures"):
        folder_patches(tmp_path, SETTINGS, 1, seed=0)
    with pytest.raises(CalibrationError, match="is not a folder"):
        folder_patches(tmp_path / "a.txt", SETTINGS, 1, seed=0, error=CalibrationError)
    with pytest.raises(CalibrationError, match="one constant"):
        PatchData(settings=SETTINGS, patches=np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(CalibrationError, match="samples is 0"):
        PatchData(settings=SETTINGS, patches=np.zeros((0, 3, 8, 8), np.float32))
