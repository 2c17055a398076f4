from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from aigc_models.training.image_data import digits, load_images
from aigc_runtime.errors import InputError


def test_digits_are_sklearns_resized_and_split_once() -> None:
    data, bunch = digits(), load_digits()
    assert data.train.shape == (1438, 1, 16, 16)
    assert len(data.held_out) == len(data.held_out_labels) == 359
    assert (data.train.min(), data.train.max()) == (-1, 1)
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


def write_images(root: Path, classes: dict[str, int], mode: str = "L") -> None:
    for grey, (name, count) in enumerate(classes.items()):
        (root / name).mkdir()
        for i in range(count):
            colour = 60 * grey if mode == "L" else (60 * grey, 10, 250)
            Image.new(mode, (20, 30), colour).save(root / name / f"{i}.png")


def test_a_folder_of_images_has_a_class_per_sub_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 8, "bee": 12})
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    data = load_images(tmp_path, size=16, channels=1)
    assert data.class_names == ("ant", "bee")
    assert data.train.shape == (16, 1, 16, 16)
    assert len(data.held_out) == 4
    for images, labels in ((data.train, data.train_labels), (data.held_out, data.held_out_labels)):
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_allclose(image.numpy(), 60 * label.item() / 127.5 - 1, atol=1e-6)


def test_colour_images_keep_the_order_of_their_channels(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 10}, mode="RGB")
    pixel = load_images(tmp_path, size=8, channels=3).train[0, :, 4, 4].numpy()
    np.testing.assert_allclose(pixel, np.array([0, 10, 250]) / 127.5 - 1, atol=1e-6)


def test_images_that_are_none_too_few_or_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 0 images in 0 class folders"):
        load_images(tmp_path / "nowhere", size=16, channels=1)
    write_images(tmp_path, {"a": 9})
    with pytest.raises(InputError, match="holds 9 images in 1 class folders\none sub-folder per class"):
        load_images(tmp_path, size=16, channels=1)
    (tmp_path / "a" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"cannot read image .*broken\.png"):
        load_images(tmp_path, size=16, channels=1)
