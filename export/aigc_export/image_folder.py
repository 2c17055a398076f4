"""Folders of images as calibration data: which label each has, and the few that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_models.training.image_data import IMAGE_SUFFIXES
from aigc_runtime.tensors import Array

__all__ = ["FoundImages", "find_images", "read_images"]


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Files that were found, and their labels.

    Attributes:
        files: in the order of their labels, then of their names.
        labels: [N] int64; None for a model without classes.
    """

    files: tuple[Path, ...]
    labels: Array | None

    def draw(self, count: int, rng: np.random.Generator) -> FoundImages:
        """At most `count` of them without replacement, as many of each label as there are, give or take one."""
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
            files=tuple(self.files[i] for i in chosen), labels=None if self.labels is None else self.labels[chosen]
        )


def find_images(path: Path | str, num_classes: int | None) -> FoundImages:
    """The images of a folder; for a model with classes, of one sub-folder per class.

    Sub-folders whose names are numbers are labels, of which some may be missing. Other names are taken in sorted order
    as labels 0, 1, ..., so that there must be one for every class.

    Raises:
        CalibrationError: no images there, or folders that do not fit the classes.
    """
    root = Path(path)
    images = ", ".join(IMAGE_SUFFIXES)
    expected = f"expected a folder of images ({images})"
    if num_classes is not None:
        expected += f" with one sub-folder per class, named 0 to {num_classes - 1}, or {num_classes} of any other names"
    if not root.is_dir():
        raise CalibrationError(f"{str(root)!r} is not a folder", hint=f"{expected}, or an .npz")
    if num_classes is None:
        files = _images_below(root)
        labels = None
    else:
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        names = _labels([f.name for f in folders], num_classes, root, expected)
        found = sorted(
            (label, file) for folder, label in zip(folders, names, strict=True) for file in _images_below(folder)
        )
        files, labels = [file for _, file in found], np.array([label for label, _ in found], dtype=np.int64)
    if not files:
        raise CalibrationError(f"{str(root)!r} holds no images", hint=expected)
    return FoundImages(files=tuple(files), labels=labels)


def _images_below(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())


def _labels(names: Sequence[str], num_classes: int, root: Path, expected: str) -> list[int]:
    """The label of every folder."""
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    if not names:
        raise CalibrationError(f"{str(root)!r} holds no class folders", hint=expected)
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


def read_images(files: Sequence[Path], shape: tuple[int, int, int]) -> Array:
    """Images resized to (C, H, W): [N, C, H, W] float32 in [-1, 1].

    Raises:
        CalibrationError: an image that cannot be read, or a number of channels that images do not have.
    """
    from PIL import Image, UnidentifiedImageError

    channels, height, width = shape
    if channels not in {1, 3}:
        raise CalibrationError(
            f"the model reads {channels} channels, and images have 1 or 3", hint="give an .npz in place of images"
        )
    arrays = []
    for file in files:
        try:
            with Image.open(file) as image:
                resized = image.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.LANCZOS
                )
        # Pillow raises many types for damaged files; none of them says which file it was.
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
            raise CalibrationError(
                f"cannot read image {str(file)!r}: {err}", hint="remove it, or save it again"
            ) from err
        arrays.append(np.asarray(resized, dtype=np.float32).reshape(height, width, channels).transpose(2, 0, 1))
    return np.stack(arrays) / np.float32(127.5) - 1
