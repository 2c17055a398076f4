"""The pixels of a picture file as 8 bits with alpha; what is read exactly is tested beside the models' reader, too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import EngineMissingError
from aigc_runtime.io.pictures import MAX_PIXELS, ImageError, read_pixels

from .picture_files import RGB, bomb, cmyk, cut, empty, film, saved

Image: Any = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(1)
RGBA = np.concatenate([RGB, RNG.integers(0, 200, (5, 7, 1), np.uint8)], axis=2)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (RGB, RGB),
        (RGBA, RGBA),
        (np.dstack([RGB, np.full((5, 7), 255, np.uint8)]), RGB),  # opaque: left out
        (RGB[..., 0], RGB[..., :1]),
        (RGBA[..., 2:], RGBA[..., 2:]),  # gray and alpha
        (RGB[..., 0] > 99, (RGB[..., :1] > 99) * np.uint8(255)),
    ],
)
def test_eight_bits_are_what_was_saved(pixels: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    found = read_pixels(saved(tmp_path, pixels)).in_8_bits()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_a_palette_becomes_its_colors(tmp_path: Path) -> None:
    image = Image.fromarray(RGB // 128 * 128).quantize(8)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png").in_8_bits(), np.asarray(image.convert("RGB")))


def test_a_photo_is_turned_as_it_is_meant(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_pixels(saved(tmp_path, RGBA, exif=exif))
    np.testing.assert_array_equal(found.in_8_bits(), np.rot90(RGBA, -1))
    assert found.notes == ("turned as the EXIF orientation says",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, f"bomb.png' has more than {MAX_PIXELS:,} pixels"),
        (film, "film.gif' holds 2 frames or pages"),
        (cmyk, "print.jpg' (is a picture of the mode CMYK|holds pixels of the kind)"),
        (empty, "empty.png' is empty"),
        (cut, "cannot read picture .*cut.png'"),
        (lambda folder: saved(folder, RGB[..., 0].astype(np.uint16) * 257, "deep.png"), "deep.png' holds 16 bits"),
        (lambda folder: folder / "none.png", "no such file"),
    ],
)
def test_what_is_refused_is_named(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageError, match=message):
        read_pixels(path).in_8_bits()


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, RGB)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EngineMissingError, match="Pillow, which is not installed") as err:
        read_pixels(path)
    assert err.value.hint == "pip install 'aigc-runtime[images]'"
