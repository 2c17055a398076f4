"""A picture is read as exactly the numbers that were written into its file, or refused with the file's name."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from aigc_models.data.images import ImageError, parse_background, read_picture
from aigc_runtime.errors import InputError

from .picture_files import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, bmp, chunk, exif, png, tiff, write

WHITE, BLACK = (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0)


def scaled(values: object, highest: int) -> np.ndarray:
    return (np.asarray(values, np.float64) * 2 / highest - 1).astype(np.float32)


def check(tmp_path: Path, data: bytes, expected: np.ndarray, *notes: str, name: str = "a.png", **options: Any) -> None:
    picture = read_picture(write(tmp_path / name, data), **options)
    assert picture.pixels.dtype == np.float32
    assert picture.pixels.shape == expected.shape
    np.testing.assert_allclose(picture.pixels, expected, rtol=0, atol=1e-7)
    assert picture.pixels.min() >= -1
    assert picture.pixels.max() <= 1
    assert len(picture.notes) == len(notes)
    for note, wanted in zip(picture.notes, notes, strict=True):
        assert wanted in note


# Gray of every depth: PNG section 13.12 says that a sample of d bits is v / (2^d - 1)


@pytest.mark.parametrize(
    ("depth", "rows", "values"),
    [
        (1, [b"\xa0", b"\x40"], [[1, 0, 1], [0, 1, 0]]),
        (2, [b"\x1b", b"\xe4"], [[0, 1, 2, 3], [3, 2, 1, 0]]),
        (4, [b"\x01\x9f"], [[0, 1, 9, 15]]),
        (8, [b"\x00\x01\x7f\xff"], [[0, 1, 127, 255]]),
        (16, [b"\x00\x00\x00\x01\x80\x00\xff\xff"], [[0, 1, 32768, 65535]]),
    ],
)
def test_gray_pngs_of_every_depth(tmp_path: Path, depth: int, rows: list[bytes], values: list[list[int]]) -> None:
    width = len(values[0])
    data = png((width, len(rows)), rows, depth=depth)
    check(tmp_path, data, scaled([values], 2**depth - 1))


def test_sixteen_bits_keep_the_lower_byte(tmp_path: Path) -> None:
    data = png((2, 1), [struct.pack(">HH", 1000, 1001)], depth=16)
    a, b = read_picture(write(tmp_path / "a.png", data)).pixels.ravel()
    assert b - a == pytest.approx(2 / 65535, rel=1e-2)
    with Image.open(tmp_path / "a.png") as image:  # what Pillow's own conversion does, for comparison: all is white
        assert set(image.convert("L").tobytes()) != {3}


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiffs_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    values = [[0, 255, 256], [40000, 65534, 65535]]
    data = tiff((3, 2), struct.pack(order + "6H", *np.ravel(values)), bits=(16,), order=order)
    check(tmp_path, data, scaled([values], 65535), name="a.tif")


def test_tiffs_where_zero_is_white(tmp_path: Path) -> None:
    check(tmp_path, tiff((2, 1), b"\x00\xf0", photometric=0), scaled([[[255, 15]]], 255), name="a.tif")
    check(tmp_path, tiff((2, 1), b"\x80", bits=(1,), photometric=0), scaled([[[0, 1]]], 1), name="b.tif")


def test_color_pngs_bmps_and_tiffs(tmp_path: Path) -> None:
    pixels = bytes([1, 2, 3, 250, 251, 252])
    expected = scaled([[[1, 250]], [[2, 251]], [[3, 252]]], 255)
    check(tmp_path, png((2, 1), [pixels], color=RGB), expected)
    check(tmp_path, tiff((2, 1), pixels, bits=(8, 8, 8), photometric=2), expected, name="a.tiff")
    check(tmp_path, bmp((2, 1), bytes([3, 2, 1, 252, 251, 250, 0, 0]), bits=24), expected, name="a.bmp")
    check(tmp_path, bmp((2, 1), bytes([3, 2, 1, 9, 252, 251, 250, 9]), bits=32), expected, name="b.bmp")


@pytest.mark.parametrize(("depth", "row"), [(1, b"\x40"), (2, b"\x10"), (4, b"\x01"), (8, b"\x00\x01")])
def test_palettes_of_every_depth(tmp_path: Path, depth: int, row: bytes) -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0]))
    expected = scaled([[[10, 200]], [[20, 100]], [[30, 0]]], 255)
    check(tmp_path, png((2, 1), [row], depth=depth, color=PALETTE, before=[palette]), expected)


def test_a_palette_of_grays_is_gray(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([10, 10, 10, 200, 200, 200]))
    data = png((2, 1), [b"\x00\x01"], color=PALETTE, before=[palette])
    check(tmp_path, data, scaled([[[10, 200]]], 255))
    data = png((2, 1), [b"\x00\x01"], color=PALETTE, before=[palette, chunk(b"tRNS", b"\xff\x33")])
    check(tmp_path, data, scaled([[[10, 200 * 0.2]]], 255), "composed", background=BLACK)


def test_a_color_outside_of_the_palette(tmp_path: Path) -> None:
    data = png((2, 1), [b"\x00\x02"], color=PALETTE, before=[chunk(b"PLTE", bytes(6))])
    with pytest.raises(ImageError, match=r"a\.png' points to color 2 of a palette with 2"):
        read_picture(write(tmp_path / "a.png", data))


# Transparency

CASES = {
    "gray and alpha": (png((2, 1), [bytes([100, 255, 200, 51])], color=GRAY_ALPHA), [[[100, 200]]], [[1, 0.2]]),
    "rgb and alpha": (
        png((2, 1), [bytes([10, 20, 30, 255, 40, 50, 60, 0])], color=RGBA),
        [[[10, 40]], [[20, 50]], [[30, 60]]],
        [[1, 0]],
    ),
    "a palette's": (
        png(
            (2, 1),
            [b"\x01\x00"],
            color=PALETTE,
            before=[chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])), chunk(b"tRNS", b"\x33\xff")],
        ),
        [[[40, 10]], [[50, 20]], [[60, 30]]],
        [[1, 0.2]],
    ),
    "one palette entry": (
        png(
            (2, 1),
            [b"\x01\x00"],
            color=PALETTE,
            before=[chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])), chunk(b"tRNS", b"\x00")],
        ),
        [[[40, 10]], [[50, 20]], [[60, 30]]],
        [[1, 0]],
    ),
    "one gray": (png((2, 1), [b"\x07\x08"], before=[chunk(b"tRNS", b"\x00\x08")]), [[[7, 8]]], [[1, 0]]),
    "one gray of 4 bits": (
        png((2, 1), [b"\x78"], depth=4, before=[chunk(b"tRNS", b"\x00\x08")]),
        [[[7 * 17, 8 * 17]]],
        [[1, 0]],
    ),
    "one gray of 1 bit": (
        png((2, 1), [b"\x80"], depth=1, before=[chunk(b"tRNS", b"\x00\x00")]),
        [[[255, 0]]],
        [[1, 0]],
    ),
    "one color": (
        png((2, 1), [bytes([1, 2, 3, 1, 2, 4])], color=RGB, before=[chunk(b"tRNS", b"\x00\x01\x00\x02\x00\x04")]),
        [[[1, 1]], [[2, 2]], [[3, 4]]],
        [[1, 0]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_transparency_is_refused_or_composed_over_the_named_color(tmp_path: Path, case: str) -> None:
    data, values, alpha = CASES[case]
    with pytest.raises(ImageError, match=r"a\.png' has transparent pixels: 1 of 2\n.*--background"):
        read_picture(write(tmp_path / "a.png", data))
    for background, level in ((WHITE, 255), (BLACK, 0)):
        mixed = np.asarray(values) * np.asarray(alpha) + level * (1 - np.asarray(alpha))
        check(tmp_path, data, scaled(mixed, 255), "composed over the background", background=background)


def test_a_colored_background_makes_gray_a_color(tmp_path: Path) -> None:
    data = png((2, 1), [bytes([100, 255, 200, 0])], color=GRAY_ALPHA)
    picture = read_picture(write(tmp_path / "a.png", data), background=parse_background("#ff8000"))
    np.testing.assert_allclose(picture.pixels, scaled([[[100, 255]], [[100, 128]], [[100, 0]]], 255), atol=1e-7)


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    check(tmp_path, png((1, 1), [bytes([9, 255])], color=GRAY_ALPHA), scaled([[[9]]], 255))
    check(tmp_path, png((1, 1), [bytes([9, 8, 7, 255])], color=RGBA), scaled([[[9]], [[8]], [[7]]], 255))


@pytest.mark.parametrize("text", ["", "gray", "#12345", "#12345g", "#1234567", "##123456", "12 456"])
def test_backgrounds_that_are_none(text: str) -> None:
    assert parse_background("White") == WHITE
    assert parse_background("#000000") == BLACK
    with pytest.raises(InputError, match="background is"):
        parse_background(text)


# Orientation: EXIF 2.3, table 6, "the 0th row is the visual ... side, the 0th column the visual ... side"

TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", TURNED)
def test_every_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    notes = () if orientation == 1 else ("turned as the EXIF orientation says",)
    rows = [b"\x01\x02\x03", b"\x04\x05\x06"]
    expected = scaled([TURNED[orientation]], 255)
    check(tmp_path, png((3, 2), rows, before=[chunk(b"eXIf", exif(orientation))]), expected, *notes)
    check(tmp_path, tiff((3, 2), b"".join(rows), orientation=orientation), expected, *notes, name="a.tif")
    block = io.BytesIO()
    Image.fromarray(np.full((8, 16), 99, np.uint8)).save(block, "JPEG", exif=b"Exif\0\0" + exif(orientation))
    shape = (1, 16, 8) if orientation > 4 else (1, 8, 16)
    check(tmp_path, block.getvalue(), np.full(shape, 99 / 127.5 - 1, np.float32), *notes, name="a.jpg")


def test_an_orientation_that_is_none(tmp_path: Path) -> None:
    data = png((1, 1), [b"\x01"], before=[chunk(b"eXIf", exif(9))])
    with pytest.raises(ImageError, match=r"a\.png' has the EXIF orientation 9"):
        read_picture(write(tmp_path / "a.png", data))


# Profiles and gamma


def test_profiles_and_gamma_are_told_and_the_numbers_kept(tmp_path: Path) -> None:
    def icc(name: Literal["LAB", "XYZ", "sRGB"]) -> bytes:
        return chunk(
            b"iCCP", b"x\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())
        )

    rows, expected = [b"\x01\x02"], scaled([[[1, 2]]], 255)
    check(tmp_path, png((2, 1), rows, before=[icc("sRGB")]), expected)
    check(tmp_path, png((2, 1), rows, before=[icc("LAB")]), expected, "whose numbers were taken as they stand")
    broken = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    check(tmp_path, png((2, 1), rows, before=[broken]), expected, "'that cannot be read'")
    check(tmp_path, png((2, 1), rows, before=[chunk(b"gAMA", struct.pack(">I", 45455))]), expected)
    linear = chunk(b"gAMA", struct.pack(">I", 100000))
    check(tmp_path, png((2, 1), rows, before=[linear]), expected, "with the gamma 1")
    check(tmp_path, png((2, 1), rows, before=[chunk(b"sRGB", b"\0"), linear]), expected)


# Refused

BAD = {
    "16 bits of rgb": (png((1, 1), [bytes(6)], depth=16, color=RGB), "16 bits per channel of color"),
    "16 bits of rgba": (png((1, 1), [bytes(8)], depth=16, color=RGBA), "16 bits per channel of color"),
    "16 bits of gray and alpha": (png((1, 1), [bytes(4)], depth=16, color=GRAY_ALPHA), "16 bits per channel"),
    "16 bits of rgb in a tiff": (tiff((1, 1), bytes(6), bits=(16, 16, 16), photometric=2), "16 bits per channel"),
    "5 bits of rgb": (bmp((2, 1), bytes(4), bits=16), "5 or 6 bits per channel"),
    "float": (tiff((1, 1), bytes(4), bits=(32,), sample_format=3), "pixels of the kind F;32F"),
    "32 bits": (tiff((1, 1), bytes(4), bits=(32,)), "."),
    "signed 16 bits": (tiff((1, 1), bytes(2), bits=(16,), sample_format=2), "pixels of the kind I;16S"),
    "12 bits": (tiff((2, 1), bytes(3), bits=(12,)), "pixels of the kind I;12"),
    "white is zero in 16 bits": (tiff((1, 1), bytes(2), bits=(16,), photometric=0), "16 bits of gray with 0 for white"),
    "a fourth channel": (tiff((1, 1), bytes(4), bits=(8,) * 4, photometric=2, extra=(0,)), "pixels of the kind RGBX"),
    "premultiplied": (tiff((1, 1), bytes(4), bits=(8,) * 4, photometric=2, extra=(1,)), "pixels of the kind RGBa"),
    "cmyk": (tiff((1, 1), bytes(4), bits=(8,) * 4, photometric=5), "CMYK"),
    "ycbcr": (tiff((1, 1), bytes(3), bits=(8,) * 3, photometric=6), "YCbCr"),
    "lab": (tiff((1, 1), bytes(3), bits=(8,) * 3, photometric=8), "LAB"),
    "nothing": (b"", "is empty"),
    "text": (b"hello, this is no picture", "its content is none of PNG, JPEG"),
    "html with a picture's name": (b"<html>" * 50, "its content is none of"),
    "half a png": (png((64, 64), [bytes(range(64))] * 64)[:150], "cannot read picture"),
    "a bomb": (png((20_000, 20_000), [b""]), "more than 89,478,485 pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(ImageError, match=message) as caught:
        read_picture(write(tmp_path / "pic.png", data))
    assert "pic.png'" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_more_than_one_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 100, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=f"a.{suffix}' holds 3 frames or pages"):
        read_picture(tmp_path / f"a.{suffix}")


def test_still_gifs_and_webps(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 10, 20, 30
    saved: tuple[tuple[str, dict[str, Any]], ...] = (("gif", {}), ("webp", {"lossless": True}))
    for suffix, options in saved:
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)
        np.testing.assert_array_equal(
            read_picture(tmp_path / f"a.{suffix}").pixels, scaled(pixels.transpose(2, 0, 1), 255)
        )


def test_a_phones_jpeg_with_a_second_picture_says_so(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (50, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.jpg")
    assert abs(picture.pixels - (50 / 127.5 - 1)).max() < 0.02
    assert picture.notes == ("with further pictures (MPO), of which the first was read",)


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    check(tmp_path, png((2, 1), [b"\x01\x02"]), scaled([[[1, 2]]], 255), name="a.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_file_cut_anywhere_is_refused_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lenient: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    rng = np.random.default_rng(0)
    block = io.BytesIO()
    options = {"quality": 90, "progressive": True} if kind == "progressive" else {}
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    image.save(block, "JPEG" if kind == "progressive" else kind, **options)
    data = block.getvalue()
    whole = read_picture(write(tmp_path / "a", data)).pixels
    refused = 0
    for cut in range(1, len(data), 41 if len(data) > 1000 else 7):
        try:
            found = read_picture(write(tmp_path / "a", data[:cut])).pixels
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, whole)
    assert refused > 20
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_a_png_with_a_flipped_bit_is_refused_wherever_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = png((16, 16), [rng.integers(0, 256, 16, dtype=np.uint8).tobytes() for _ in range(16)])
    whole = read_picture(write(tmp_path / "a.png", data)).pixels
    for at in range(len(data) - 12):
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        try:
            found = read_picture(write(tmp_path / "a.png", bytes(damaged))).pixels
        except ImageError:
            continue
        np.testing.assert_array_equal(found, whole)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png' is a named pipe, expected a plain file"):
        read_picture(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=r"cannot read .*loop\.png': Too many levels of symbolic links"):
        read_picture(tmp_path / "loop.png")
    with pytest.raises(ImageError, match=r"no such file: .*gone\.png"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder, expected a plain file"):
        read_picture(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    with pytest.raises(ImageError) as caught:
        read_picture(write(path, b""))
    caught.value.message.encode("utf-8")  # it can be printed
    check(tmp_path, png((1, 1), [b"\x05"]), scaled([[[5]]], 255), name=path.name)


def test_reading_leaves_warnings_as_they_were(tmp_path: Path) -> None:
    before = list(warnings.filters)
    read_picture(write(tmp_path / "a.png", png((1, 1), [b"\x05"], color=GRAY)))
    assert warnings.filters == before
