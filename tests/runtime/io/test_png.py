"""PNG files, read back by a small reader of the format and by Pillow."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import EngineError, InputError, OutputError
from aigc_runtime.io.png import encode_png, image_grid, to_uint8, write_png, write_png_bands

RNG = np.random.default_rng(0)
IMAGES = {
    "gray": RNG.integers(0, 256, size=(5, 7), dtype=np.uint8),
    "one channel": RNG.integers(0, 256, size=(5, 7, 1), dtype=np.uint8),
    "rgb": RNG.integers(0, 256, size=(6, 4, 3), dtype=np.uint8),
    "one pixel": np.array([[200]], dtype=np.uint8),
    "not contiguous": RNG.integers(0, 256, size=(3, 8, 9), dtype=np.uint8).transpose(1, 2, 0)[::2, ::-1],
}


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG; checks signature, lengths and CRCs."""
    assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    assert at == len(data)
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_the_format(name: str) -> None:
    image = IMAGES[name]
    (first, header), (second, body), (third, end) = chunks(encode_png(image))
    assert (first, second, third, end) == (b"IHDR", b"IDAT", b"IEND", b"")
    channels = 3 if image.shape[2:] == (3,) else 1
    height, width = image.shape[:2]
    assert struct.unpack(">IIBBBBB", header) == (width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\x00" + image[y].tobytes() for y in range(height))
    assert zlib.decompress(body) == rows


@pytest.mark.parametrize("name", IMAGES)
def test_pillow_reads_what_was_written(name: str, tmp_path: Path) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    image = IMAGES[name]
    path = tmp_path / "image.png"
    write_png(path, image)
    with pillow.open(path) as read:
        assert read.format == "PNG"
        pixels = np.asarray(read)
    np.testing.assert_array_equal(pixels, image[:, :, 0] if image.shape[2:] == (1,) else image)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 2), dtype=np.float32),
        np.zeros((2, 2), dtype=np.int8),
        np.zeros((2, 2), dtype=bool),
        np.zeros((2, 2, 4), dtype=np.uint8),
        np.zeros((3,), dtype=np.uint8),
        np.zeros((), dtype=np.uint8),
        np.zeros((1, 2, 2, 3), dtype=np.uint8),
        np.zeros((0, 2), dtype=np.uint8),
        np.zeros((2, 0, 3), dtype=np.uint8),
    ],
)
def test_images_that_cannot_be_encoded(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"image of dtype .*, shape .*\nneed uint8 \[H, W\], \[H, W, 1\] or \[H, W, 3"):
        encode_png(image)


def test_an_image_too_large_for_the_format_is_refused_before_any_work() -> None:
    image = np.broadcast_to(np.uint8(0), (40_000, 40_000))
    with pytest.raises(InputError, match=r"an image of 40000 x 40000 pixels with 1 channels\nat most 268,435,456"):
        encode_png(image)
    with pytest.raises(InputError, match="smaller scale"):
        image_grid(np.zeros((1, 1, 8, 8), dtype=np.float32), scale=10_000)


def test_pixel_values_round_half_to_even_and_clip() -> None:
    halves = np.array([124.5, 126.5, 127.5, 128.5])
    values = halves / 127.5 - 1
    assert ((values + 1) * 127.5).tolist() == halves.tolist()  # no rounding on the way decides what follows
    assert to_uint8(values).tolist() == [124, 126, 128, 128]
    near = np.array([0, 0.49, 0.51, 126.49, 254.51, 255]) / 127.5 - 1
    assert to_uint8(near).tolist() == [0, 0, 1, 126, 255, 255]
    assert to_uint8(np.array([-1e30, -1.001, 1.001, 3e38], dtype=np.float32)).tolist() == [0, 0, 255, 255]
    assert to_uint8(np.zeros((2, 3), dtype=np.float16)).tolist() == [[128] * 3] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    images = np.zeros((2, 1, 3, 3), dtype=np.float32)
    images[1, 0, 2, 1] = value
    message = r"1 of 18 pixel values are NaN or infinite, the first at index \(1, 0, 2, 1\)\nrun `aigc-run verify`"
    with pytest.raises(EngineError, match=message):
        to_uint8(images)
    with pytest.raises(EngineError, match="NaN or infinite"):
        image_grid(images)


def test_a_grid_by_hand() -> None:
    images = np.array([-1.0, 0.2, 1.0])[:, None, None, None].astype(np.float32)
    a, b, c, o = 0, 153, 255, 255
    assert image_grid(images, columns=2, pad=1).tolist() == [
        [o, o, o, o, o],
        [o, a, o, b, o],
        [o, o, o, o, o],
        [o, c, o, o, o],
        [o, o, o, o, o],
    ]
    assert image_grid(images, columns=3, pad=0, scale=2).tolist() == [[a, a, b, b, c, c]] * 2
    assert image_grid(images, columns=9, pad=0).tolist() == [[a, b, c]]


def test_a_grid_of_color_keeps_channels_and_places() -> None:
    images = RNG.uniform(-1, 1, size=(5, 3, 4, 6)).astype(np.float32)
    grid = image_grid(images, pad=2, scale=3)
    assert grid.shape == (3 * (2 * 6 + 2), 3 * (3 * 8 + 2), 3)
    pixels = to_uint8(images)
    for i in range(5):
        row, column = divmod(i, 3)
        top, left = 3 * (2 + row * 6), 3 * (2 + column * 8)
        block = grid[top : top + 12, left : left + 18]
        for dy in range(3):
            for dx in range(3):
                np.testing.assert_array_equal(block[dy::3, dx::3].transpose(2, 0, 1), pixels[i])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10])
def test_the_grid_is_about_square_by_default(count: int) -> None:
    grid = image_grid(np.zeros((count, 1, 1, 1), dtype=np.float32), pad=0)
    down, across = grid.shape
    assert across * across >= count > (across - 1) ** 2
    assert down == -(-count // across)


@pytest.mark.parametrize("shape", [(1, 2, 2), (0, 1, 2, 2), (1, 2, 2, 2), (1, 1, 0, 2), (1, 3, 2, 0)])
def test_arrays_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"images of shape \(.*\nneed \[N, C, H, W\]"):
        image_grid(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    "options", [{"columns": 0}, {"scale": 0}, {"pad": -1}, {"scale": 1.5}, {"columns": True}, {"pad": "2"}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"columns=.*, scale=.*, pad=.*\nneed integers"):
        image_grid(np.zeros((1, 1, 2, 2), dtype=np.float32), **options)


def test_writing_replaces_the_old_file_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "image.png"
    write_png(path, IMAGES["gray"])
    write_png(str(path), IMAGES["rgb"])
    assert path.read_bytes() == encode_png(IMAGES["rgb"])
    assert os.listdir(path.parent) == ["image.png"]  # noqa: PTH208 - hidden files count


def test_a_bad_image_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    with pytest.raises(InputError):
        write_png(path, np.zeros((2, 2)))
    assert path.read_bytes() == b"old"


def fail(code: int) -> Callable[..., Any]:
    def failing(*_args: object, **_kwargs: object) -> Any:
        raise OSError(code, os.strerror(code))

    return failing


@pytest.mark.parametrize(
    ("step", "code", "advice"),
    [
        ("os.fsync", errno.ENOSPC, "free some space"),
        ("os.fdopen", errno.EIO, "check the path and the disk"),
        ("os.open", errno.EACCES, "you may not write there"),
        ("pathlib.Path.replace", errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    step: str, code: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(step, fail(code))
    with pytest.raises(OutputError) as caught:
        write_png(path, IMAGES["rgb"])
    monkeypatch.undo()
    assert caught.value.message == f"cannot write {str(path)!r}: {os.strerror(code)}"
    assert caught.value.hint.startswith(advice)
    assert caught.value.hint.endswith("what was there before is unchanged")
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image.png"]  # noqa: PTH208 - hidden files count


LIMITED = """
import resource, signal, sys
sys.dont_write_bytecode = True  # Python 3.11 and older leave a compiled source that the limit has cut off
import numpy as np
from aigc_runtime.errors import OutputError
from aigc_runtime.io.png import write_png
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_png(sys.argv[1], np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))
except OutputError as err:
    print(err)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes are POSIX")
def test_a_write_that_the_system_cuts_off(tmp_path: Path) -> None:
    """The kernel takes the first 4 KiB and refuses the rest, as a full disk does."""
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert "refuses a file of this size; what was there before is unchanged" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image.png"]  # noqa: PTH208 - hidden files count


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="you may not write there"):
        write_png(folder / "image.png", IMAGES["gray"])
    folder.chmod(0o700)
    assert not list(folder.iterdir())


def test_places_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a directory of that name is in the way"):
        write_png(tmp_path, IMAGES["gray"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"in the way|part of the path is a file"):
        write_png(tmp_path / "file" / "image.png", IMAGES["gray"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bands_become_one_picture(channels: int, tmp_path: Path) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    image = RNG.integers(0, 256, size=(11, 6, channels), dtype=np.uint8)
    write_png_bands(tmp_path / "a.png", (image[at : at + 4] for at in (0, 4, 8)), image.shape)
    kinds = [kind for kind, _ in chunks((tmp_path / "a.png").read_bytes())]
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    with pillow.open(tmp_path / "a.png") as read:
        assert read.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


@pytest.mark.parametrize(
    ("bands", "shape", "message"),
    [
        ([np.zeros((2, 3, 3), np.uint8)], (3, 3, 3), "2 rows of an image of 3"),
        ([np.zeros((4, 3, 3), np.uint8)], (3, 3, 3), "rows of dtype uint8, shape .4, 3, 3. behind 0"),
        ([np.zeros((3, 3, 3), np.float32)], (3, 3, 3), "rows of dtype float32"),
        ([np.zeros((3, 4, 3), np.uint8)], (3, 3, 3), "shape .3, 4, 3."),
        ([], (3, 3, 5), "an image of shape .3, 3, 5."),
        ([], (0, 3, 3), "an image of shape .0, 3, 3."),
    ],
)
def test_bands_that_are_no_picture(
    bands: list[np.ndarray], shape: tuple[int, int, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_png_bands(tmp_path / "a.png", bands, shape)
    assert not list(tmp_path.iterdir())


def test_texts_stand_beside_the_picture() -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    texts = {"aigc-request": '{"prompt": "ä 雪"}', "Software": "a\0b"}
    with pillow.open(io.BytesIO(encode_png(image, texts))) as read:
        read.load()
        assert read.text == {"aigc-request": '{"prompt": "ä 雪"}', "Software": "ab"}
        np.testing.assert_array_equal(np.asarray(read), image)
    assert encode_png(image, {}) == encode_png(image)
    for keyword in ("", "a" * 80, "ä", "a\0"):
        with pytest.raises(InputError, match="the keyword of a text"):
            encode_png(image, {keyword: "x"})
