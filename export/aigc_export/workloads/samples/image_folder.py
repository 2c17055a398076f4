"""Read folders of images as calibration data, with a label for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_models.data.image_folder import Listing, PictureSet, class_folders, list_pictures, read_pictures
from aigc_models.data.images import IMAGE_SUFFIXES
from aigc_runtime.core.tensors import Array
from aigc_runtime.io.user_file import is_folder
from aigc_runtime.pipelines.class_names import class_table

__all__ = ["FoundImages", "find_images", "read_images"]


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Image files and their labels.

    Attributes:
        files: in the order of their labels, then of their names.
        labels: [N] int64; None for a model without classes.
        passed_over: other files, which are not read.
    """

    files: tuple[Path, ...]
    labels: Array | None
    passed_over: tuple[Path, ...] = ()

    def draw(self, count: int, rng: np.random.Generator) -> FoundImages:
        """Draw at most `count` images without replacement, as many of each label as there are, give or take one."""
        if count >= len(self.files):
            return self
        turn = rng.permutation(len(self.files))
        if self.labels is not None:
            # The i-th of every label, labels in a random order: then the next of every label.
            names = rng.permutation(int(self.labels.max()) + 1)
            rank = np.empty(len(turn), dtype=np.int64)
            for label in np.unique(self.labels):
                own = turn[self.labels[turn] == label]
                rank[own] = np.arange(len(own))
            turn = np.lexsort((names[self.labels], rank))
        chosen = np.sort(turn[:count])
        return FoundImages(
            files=tuple(self.files[i] for i in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            passed_over=self.passed_over,
        )


def find_images(path: Path | str, num_classes: int | None, class_names: Sequence[str] | None = None) -> FoundImages:
    """Find the images of a folder; for a model with classes, of one sub-folder per class.

    Sub-folders are labels by the names of the model's classes. Where the model's classes have no names, folders named
    by numbers are labels, of which some may be missing, and other names are taken in sorted order as labels 0, 1, ...,
    so that there must be one for every class. For a model of one class, the images need no sub-folder.

    Raises:
        CalibrationError: no images there, or folders that do not fit the classes.
        InputError: a folder that cannot be read.
    """
    root = Path(path)
    images = ", ".join(IMAGE_SUFFIXES)
    expected = f"expected a folder of images ({images})"
    if num_classes is not None:
        expected += f" with one sub-folder per class, named {_wanted_names(num_classes, class_names)}"
    if not is_folder(root):
        raise CalibrationError(f"{str(root)!r} is not a folder", hint=f"{expected}, or an .npz")
    folders = class_folders(root)
    listings: list[tuple[int, Listing]]
    if num_classes is None or (num_classes == 1 and not folders):
        listings = [(0, list_pictures(root))]
    else:
        labels = _labels([f.name for f in folders], num_classes, class_names, root, expected)
        beside = list_pictures(root, below=False)
        if beside.files:
            raise CalibrationError(
                f"{str(root)!r} holds {len(beside.files)} images beside its class folders, such as "
                f"{beside.files[0].name!a}",
                hint=expected,
            )
        listings = [(label, list_pictures(folder)) for folder, label in zip(folders, labels, strict=True)]
        listings.append((0, beside))
    found = sorted((label, file) for label, listing in listings for file in listing.files)
    if not found:
        raise CalibrationError(f"{str(root)!r} holds no images", hint=expected)
    return FoundImages(
        files=tuple(file for _, file in found),
        labels=None if num_classes is None else np.array([label for label, _ in found], dtype=np.int64),
        passed_over=tuple(file for _, listing in listings for file in listing.passed_over),
    )


def _wanted_names(num_classes: int, class_names: Sequence[str] | None) -> str:
    if class_names is not None:
        return f"{class_table(class_names)} (the names, or all by number)"
    return f"0 to {num_classes - 1}, or {num_classes} of any other names"


def _labels(
    names: Sequence[str], num_classes: int, class_names: Sequence[str] | None, root: Path, expected: str
) -> list[int]:
    """Choose the label of every folder."""
    if not names:
        raise CalibrationError(f"{str(root)!r} holds no class folders", hint=expected)
    if class_names is not None and set(names) <= set(class_names):
        return [list(class_names).index(name) for name in names]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    if class_names is not None and len(numbers) < len(names):
        unknown = next(name for name in names if name not in class_names)
        raise CalibrationError(f"{str(root)!r} holds the folder {unknown!a}, which is no class", hint=expected)
    if numbers and len(numbers) < len(names):
        raise CalibrationError(
            f"{str(root)!r} holds folders named by numbers, which are labels, and others: {', '.join(names[:20])}",
            hint=expected,
        )
    if numbers and (max(numbers) >= num_classes or len(set(numbers)) < len(numbers)):
        raise CalibrationError(
            f"{str(root)!r} holds the folders {', '.join(names[:20])}, whose names are numbers and so labels",
            hint=f"each once, and none above {num_classes - 1}: {expected}",
        )
    if not numbers and len(names) != num_classes:
        raise CalibrationError(
            f"{str(root)!r} holds {len(names)} class folders, the model has {num_classes} classes", hint=expected
        )
    return numbers or list(range(len(names)))


def read_images(found: FoundImages, shape: tuple[int, int, int]) -> PictureSet:
    """Read images, cut and resized to (C, H, W), by the functions that training reads them with.

    Raises:
        CalibrationError: a number of channels that images do not have.
        ImageError: an image that cannot be read exactly.
    """
    channels, height, width = shape
    if channels not in {1, 3}:
        raise CalibrationError(
            f"the model reads {channels} channels, and images have 1 or 3", hint="give an .npz in place of images"
        )
    return read_pictures(found.files, size=(height, width), channels=channels, passed_over=found.passed_over)
