"""A JPEG that holds fewer pixels than it says is refused, and no other."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.io.jpeg_data import lacks_pixels, prolonged
from aigc_runtime.io.pictures import ImageError, read_pixels

Image: Any = pytest.importorskip("PIL.Image")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_was_cut_and_ended_again_is_refused(tmp_path: Path, options: dict[str, Any], mode: str) -> None:
    """libjpeg fills the rest with gray and warns; Pillow keeps the warning to itself."""
    rng = np.random.default_rng(0)
    smooth = np.clip(np.cumsum(rng.normal(0, 6, (64, 64, 3)), axis=1) + 128, 0, 255).astype(np.uint8)
    block = io.BytesIO()
    Image.fromarray(smooth).convert(mode).save(block, "JPEG", quality=90, **options)
    data = block.getvalue()
    read_pixels(write(tmp_path / "a.jpg", data + b"behind it"))
    cuts = range(data.index(b"\xff\xda") + 20, len(data) - 3, 23)
    refused = 0
    for cut in cuts:
        ended = data[:cut].rstrip(b"\xff") + b"\xff\xd9"
        try:
            read_pixels(write(tmp_path / "a.jpg", ended))
        except ImageError:
            refused += 1
    # One cut exactly at a restart, or after which the added bytes happen to say the same, is not seen.
    assert refused >= 0.95 * len(cuts)


def test_jpegs_of_every_kind_are_whole() -> None:
    """Also flat ones, whose codes may be zeros, and such as the encoder ends anywhere in a byte."""
    rng = np.random.default_rng(1)
    for number in range(120):
        height, width = rng.integers(1, 70, 2)
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = (noise, noise // 255 * 255, np.full_like(noise, rng.integers(256)))[number % 3]
        options = {"optimize": number % 2 == 0, "progressive": number % 5 == 0, "subsampling": number % 3}
        block = io.BytesIO()
        Image.fromarray(pixels).save(block, "JPEG", quality=int(rng.integers(1, 101)), **options)
        with Image.open(io.BytesIO(block.getvalue())) as image:
            assert not lacks_pixels(block.getvalue(), image)


def test_what_is_no_jpeg_of_a_huffman_code_is_not_judged() -> None:
    for rest in (b"", b"\xff\xd9", b"\xff\xe0\xff", b"\xff\xff", b"\xff\xd0\xff\xd9", b"junk"):
        assert prolonged(b"\xff\xd8" + rest) is None
