"""JPEG files: read back by Pillow, with the comment, and what they do not hold."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.compare import psnr_db
from aigc_runtime.errors import EngineMissingError, InputError
from aigc_runtime.io.jpeg import MAX_COMMENT, check_jpeg, encode_jpeg, write_jpeg

Image: Any = pytest.importorskip("PIL.Image")
Y, X = np.mgrid[:40, :60]
PICTURE = np.stack([6 * Y, 4 * X, 3 * (X + Y) % 256], axis=2).astype(np.uint8)
MIN_PSNR_DB = 40.0


def test_a_picture_and_its_comment_come_back(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "a.jpg", PICTURE, '{"prompt": "ä dusk"}')
    with Image.open(tmp_path / "a.jpg") as read:
        found, comment = np.asarray(read).astype(np.float64), read.info["comment"]
        assert (read.format, read.size, read.mode) == ("JPEG", (60, 40), "RGB")
    assert comment.decode() == '{"prompt": "ä dusk"}'
    assert psnr_db(PICTURE.astype(np.float64), found) >= MIN_PSNR_DB
    with Image.open(io.BytesIO(encode_jpeg(255 - PICTURE))) as read:
        assert psnr_db(PICTURE.astype(np.float64), np.asarray(read).astype(np.float64)) < MIN_PSNR_DB


@pytest.mark.parametrize(
    ("image", "comment", "message"),
    [
        (PICTURE[:, :, 0], "", r"shape \(40, 60\)\nneed uint8 \[H, W, 3\]"),
        (PICTURE / 255, "", "dtype float64"),
        (PICTURE[:0], "", "shape"),
        (np.zeros((1, 65_501, 3), np.uint8), "", "65501 x 1 pixels as JPEG\nat most 65,500 a side"),
        (PICTURE, "ä" * (MAX_COMMENT // 2 + 1), "the request has 65,534 bytes"),
    ],
)
def test_what_it_does_not_hold(image: Any, comment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_jpeg(tmp_path / "a.jpg", image, comment)
    assert list(tmp_path.iterdir()) == []


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return honest(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        EngineMissingError, match=r"Pillow, which is not installed\npip install 'aigc-runtime\[images\]'"
    ):
        check_jpeg(8, 8)
