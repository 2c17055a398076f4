from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aigc_models.data import image_folder
from aigc_models.data.image_data import ImageData, digits, load_images
from aigc_models.data.image_folder import list_pictures
from aigc_models.data.images import ImageError
from aigc_runtime.errors import InputError

from .picture_files import RGB, png, write


def test_digits_are_sklearns_resized_and_split_once() -> None:
    data, bunch = digits(), load_digits()
    assert data.train.shape == (1438, 1, 16, 16)
    assert len(data.held_out) == len(data.held_out_labels) == 359
    assert (data.train.min().item(), data.train.max().item()) == (-1, 1)
    assert data.class_names == tuple("0123456789")
    labels = np.concatenate([data.train_labels.numpy(), data.held_out_labels.numpy()])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(bunch.target))
    # Bilinear doubling keeps the mean of every image but for its borders; the corner pixel is the original's.
    original = (bunch.images[:, 0, 0] / 8 - 1).mean()
    both = np.concatenate([data.train.numpy(), data.held_out.numpy()])
    assert both[:, 0, 0, 0].mean() == pytest.approx(original, abs=1e-6)
    assert both.mean() == pytest.approx((bunch.images / 8 - 1).mean(), abs=1e-5)


def test_no_digit_is_on_both_sides_and_the_split_is_fixed() -> None:
    data, again = digits(8), digits(8)
    train = {image.tobytes() for image in data.train.numpy()}
    duplicates = len({image.tobytes() for image in load_digits().images.astype(np.float32)})
    assert len(train | {image.tobytes() for image in data.held_out.numpy()}) == duplicates
    assert np.array_equal(data.held_out.numpy(), again.held_out.numpy())


def gray(value: int, size: tuple[int, int] = (4, 4), mark: int = 0) -> bytes:
    """A flat gray picture; its first pixel tells it from others of the same gray."""
    rows = [bytes([value] * size[0])] * size[1]
    return png(size, [bytes([mark]) + rows[0][1:], *rows[1:]])


def color(value: tuple[int, int, int], size: tuple[int, int] = (4, 4)) -> bytes:
    return png(size, [bytes(value) * size[0]] * size[1], color=RGB)


def make(root: Path, classes: dict[str, int], size: tuple[int, int] = (4, 4)) -> Path:
    """Class i holds pictures of the gray level 60 i."""
    for level, (name, count) in enumerate(classes.items()):
        for i in range(count):
            write(root / name / f"{i:02}.png", gray(60 * level % 256, size, mark=i + 1))
    return root


def both(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([data.train.numpy(), data.held_out.numpy()]),
        np.concatenate([data.train_labels.numpy(), data.held_out_labels.numpy()]),
    )


def test_a_folder_has_a_class_per_sub_folder_and_its_own_size(tmp_path: Path) -> None:
    make(tmp_path, {"ant": 8, "bee": 12})
    write(tmp_path / "ant" / "notes.txt", b"no picture")
    write(tmp_path / "Thumbs.db", b"x")
    write(tmp_path / "bee" / ".DS_Store", b"x")
    write(tmp_path / ".cache" / "a.png", b"x")
    data = load_images(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.shape == (17, 1, 4, 4)
    assert len(data.held_out) == 3  # a fifth of 8, and of 12
    images, labels = both(data)
    np.testing.assert_allclose(images[:, 0, 3, 3], np.float32(60 / 127.5) * labels - 1, atol=1e-7)
    assert data.notes[0] == "20 pictures, 4x4 gray"
    hidden, others = data.notes[1:3]
    assert hidden == "1 ('bee/.DS_Store') passed over: hidden"
    assert "2 (" in others
    assert "passed over: only .png" in others
    assert data.notes[3:] == ("2 classes: ant (8), bee (12)", "3 of them held out")


def test_a_folder_without_sub_folders_is_one_class(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / "photos" / f"{i}.png", color((10 * i, 2, 3)))
    data = load_images(tmp_path / "photos")
    assert data.class_names == ("photos",)
    assert data.train.shape == (8, 3, 4, 4)
    assert data.notes[0] == "10 pictures, 4x4 RGB"
    assert "one class: the folder has no sub-folders" in data.notes
    assert set(both(data)[1]) == {0}


def test_one_sub_folder_is_one_class(tmp_path: Path) -> None:
    data = load_images(make(tmp_path, {"ant": 10}))
    assert data.class_names == ("ant",)
    assert "1 class: ant (10)" in data.notes


def test_folders_named_by_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    assert load_images(make(tmp_path, {"10": 5, "9": 5, "1": 5})).class_names == ("1", "9", "10")


def test_sizes_that_differ_or_are_not_square_need_a_size(tmp_path: Path) -> None:
    make(tmp_path, {"a": 10})
    write(tmp_path / "a" / "zz.png", gray(7, (12, 8)))
    with pytest.raises(ImageError, match=r"differ in size: '.*00\.png' is 4x4, '.*zz\.png' is 12x8\nsay which size"):
        load_images(tmp_path)
    data = load_images(tmp_path, size=4)
    assert data.notes[0] == "11 pictures, 2 sizes from 4x4 to 12x8 gray; cut to the middle, resized to 4x4 by area"
    with pytest.raises(
        ImageError, match=r"not square: '.*00\.png' is 6x4\nsay which size the model gets, such as --size"
    ):
        load_images(make(tmp_path / "wide", {"a": 10}, (6, 4)))
    assert load_images(tmp_path / "wide", size=8).notes[0] == (
        "10 pictures, 6x4 gray; cut to the middle, resized to 8x8 by area (smaller ones enlarged, linear)"
    )


def test_gray_and_colored_pictures_together(tmp_path: Path) -> None:
    make(tmp_path, {"a": 9})
    write(tmp_path / "a" / "zz.png", color((255, 0, 51)))
    data = load_images(tmp_path)
    images, _ = both(data)
    assert images.shape == (10, 3, 4, 4)
    assert data.notes[0] == "10 pictures, 4x4 1 RGB and 9 gray; gray repeated as red, green and blue"
    colored = images[images[:, 0, 3, 3] == 1]
    np.testing.assert_allclose(colored[0, :, 3, 3], [1, -1, -0.6], atol=1e-6)
    dark = images[images[:, 0, 3, 3] != 1]
    np.testing.assert_array_equal(dark[:, 0], dark[:, 2])
    data = load_images(tmp_path, channels=1)
    assert data.notes[0] == "10 pictures, 4x4 1 RGB and 9 gray; turned to gray (0.299 R + 0.587 G + 0.114 B)"
    assert both(data)[0][:, 0, 3, 3].max() == pytest.approx(2 * (0.299 + 0.114 * 0.2) - 1, abs=1e-6)
    with pytest.raises(InputError, match=r"channels is 2\nmust be 1 \(gray\) or 3"):
        load_images(tmp_path, channels=2)


def test_colored_files_without_colors_are_told(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / "a" / f"{i}.png", color((i, i, i)))
    hint = "no picture has colors: --channels 1 makes a gray model of them"
    assert hint in load_images(tmp_path).notes
    assert hint not in load_images(tmp_path, channels=3).notes
    write(tmp_path / "a" / "x.png", color((1, 2, 3)))
    assert hint not in load_images(tmp_path).notes


def test_equal_pictures_are_told_and_on_one_side(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path / "a" / f"{i:02}.png", gray(100, mark=i // 2))
        write(tmp_path / "b" / f"{i:02}.png", gray(100, mark=i))
    data = load_images(tmp_path)
    assert any("60 there twice, such as 'a/01.png', equal to 'a/00.png'" in line for line in data.notes)
    train = {image.tobytes() for image in data.train.numpy()}
    assert len(data.held_out)
    assert not any(image.tobytes() in train for image in data.held_out.numpy())


def test_a_picture_that_is_added_moves_few_others(tmp_path: Path) -> None:
    make(tmp_path, {"a": 50})
    before = {image.tobytes() for image in load_images(tmp_path).held_out.numpy()}
    write(tmp_path / "a" / "zz.png", gray(0, mark=200))
    after = {image.tobytes() for image in load_images(tmp_path).held_out.numpy()}
    assert len(before - after) <= 1


@pytest.mark.parametrize(
    ("classes", "beside", "message"),
    [
        ({}, 0, r"holds 0 pictures and 1 other files\nneed at least 10 pictures \(.png"),
        ({}, 9, "holds 9 pictures and 1 other files"),
        ({"a": 9}, 0, "holds 9 pictures in 1 class folder and 1 other files"),
        ({"a": 20}, 2, r"holds 2 pictures, such as '0\.png', beside 1 class folders"),
        ({"a": 20, "b": 1}, 0, "the class folder 'b' in .* holds 1 pictures"),
        ({"a": 20, "b": 0}, 0, "the class folder 'b' in .* holds 0 pictures"),
        ({"a": 20, " b": 5}, 0, "the class folders' names: entry.* is ' b'\n.*rename the folder"),
        ({f"{i:04}": 2 for i in range(1001)}, 0, "1,001 class folders\nat most 1,000"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, classes: dict[str, int], beside: int, message: str) -> None:
    make(tmp_path, classes, (1, 1))
    for name, count in classes.items():
        if count == 0:
            (tmp_path / name).mkdir()
    write(tmp_path / "README.txt", b"x")
    for i in range(beside):
        write(tmp_path / f"{i}.png", gray(i))
    with pytest.raises(InputError, match=message):
        load_images(tmp_path, size=4)


def test_what_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere' is not a folder"):
        load_images(tmp_path / "nowhere")
    make(tmp_path, {"a": 10})
    write(tmp_path / "a" / "broken.png", b"not a picture")
    with pytest.raises(ImageError, match=r"cannot read picture .*broken\.png"):
        load_images(tmp_path)


def test_pictures_beyond_the_memory_are_refused_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, {"a": 10})
    monkeypatch.setattr(image_folder, "available_memory", lambda: 2**20)
    with pytest.raises(ImageError, match=r"10 pictures of 512x512 need up to 0.1 GiB of memory, 0.0 GiB are free"):
        load_images(tmp_path, size=512)


def test_folders_are_walked_with_care(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "real", {"a": 3})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    assert len(list_pictures(tmp_path / "data").files) == 3  # through the link
    os.mkfifo(tmp_path / "data" / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png' is no plain file"):
        list_pictures(tmp_path / "data")
    (tmp_path / "data" / "pipe.png").unlink()
    (tmp_path / "data" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ImageError, match=r"gone\.png' is a link to nothing"):
        list_pictures(tmp_path / "data")
    (tmp_path / "data" / "gone.png").unlink()
    (tmp_path / "data" / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=r"loop\.png' is a link to nothing"):
        list_pictures(tmp_path / "data")
    (tmp_path / "data" / "loop.png").unlink()
    (tmp_path / "real" / "a" / "up").symlink_to(tmp_path / "data")
    with pytest.raises(ImageError, match="link to one that it lies in"):
        list_pictures(tmp_path / "data")

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match=r"cannot read the folder '.*': Permission denied"):
        list_pictures(tmp_path / "real")
