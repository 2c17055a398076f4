"""Photos as they are read for upscalers: bytes that the files hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from aigc_models.data import photos as module
from aigc_models.data.images import ImageError
from aigc_models.data.photos import load_photos, sample_photos
from aigc_runtime.errors import InputError


def save(
    root: Path, count: int, *, size: tuple[int, int] = (20, 16), gray: bool = False, seed: int = 0
) -> list[np.ndarray]:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0]) if gray else (size[1], size[0], 3)
    arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(root / f"{seed}-{i}.png")
    return arrays


def test_every_byte_is_the_files_and_one_in_five_is_held_out(tmp_path: Path) -> None:
    arrays = save(tmp_path / "a", 6) + save(tmp_path / "b", 5, size=(33, 17), seed=1)
    found = load_photos(tmp_path, min_side=16)
    assert (len(found.train), len(found.held_out), found.channels) == (9, 2, 3)
    read = {photo.numpy().transpose(1, 2, 0).tobytes() for photo in (*found.train, *found.held_out)}
    assert read == {array.tobytes() for array in arrays}
    assert found.notes == ("11 photos, 2 sizes from 20x16 to 33x17 RGB", "2 of them held out")
    assert found.digest() == load_photos(tmp_path, min_side=16).digest()
    assert found.digest() != load_photos(tmp_path, min_side=16, channels=1).digest()


def test_equal_photos_are_taken_once_and_stay_on_one_side(tmp_path: Path) -> None:
    save(tmp_path, 6)
    (tmp_path / "again.png").write_bytes((tmp_path / "0-0.png").read_bytes())
    found = load_photos(tmp_path, min_side=8)
    assert len(found.train) + len(found.held_out) == 6
    assert found.notes[-1] == "1 there twice, and taken once"


def test_gray_and_colors(tmp_path: Path) -> None:
    save(tmp_path, 5, gray=True)
    assert load_photos(tmp_path, min_side=8).channels == 1
    (color,) = save(tmp_path, 1, seed=1)
    mixed = load_photos(tmp_path, min_side=8)
    assert mixed.channels == 3
    assert "gray repeated as red, green and blue" in mixed.notes
    gray = load_photos(tmp_path, min_side=8, channels=1)
    expected = np.rint(color.astype(np.float64) @ [0.299, 0.587, 0.114])
    assert any(
        photo.shape == (1, 16, 20) and np.abs(photo.numpy()[0].astype(float) - expected).max() <= 1
        for photo in (*gray.train, *gray.held_out)
    )
    assert "colors turned to gray (0.299 R + 0.587 G + 0.114 B)" in gray.notes


def test_the_built_in_photos() -> None:
    found = sample_photos()
    for (photo,), name in ((found.train, "china.jpg"), (found.held_out, "flower.jpg")):
        np.testing.assert_array_equal(photo.numpy().transpose(1, 2, 0), load_sample_image(name))
    assert sample_photos(1).train[0].shape == (1, 427, 640)


def test_what_cannot_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is not a folder\ngive a folder of photos"):
        load_photos(tmp_path / "none", min_side=8)
    with pytest.raises(InputError, match="holds 0 different photos\nneed at least 5"):
        load_photos(tmp_path, min_side=8)
    save(tmp_path, 4)
    with pytest.raises(InputError, match="holds 4 different photos"):
        load_photos(tmp_path, min_side=8)
    save(tmp_path, 1, seed=1)
    load_photos(tmp_path, min_side=16)
    with pytest.raises(
        ImageError, match=r"'.*\.png' is 20x16, and what is trained on is 17x17\ntake it out, or give a"
    ):
        load_photos(tmp_path, min_side=17)
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    with pytest.raises(ImageError, match=r"5 photos need about .* GiB of memory"):
        load_photos(tmp_path, min_side=8)
