"""Images to train on: scikit-learn's hand-written digits, or the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_runtime.errors import InputError

__all__ = ["IMAGE_SUFFIXES", "ImageData", "digits", "load_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images, split.

    Attributes:
        train: [N, C, H, W] float32 in [-1, 1].
        train_labels: [N] int64.
        held_out: [M, C, H, W] float32 in [-1, 1].
        held_out_labels: [M] int64.
        class_names: one per label.
    """

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    class_names: tuple[str, ...]


def digits(size: int = 16) -> ImageData:
    """scikit-learn's 1,797 digits (8x8, 16 grey levels), resized to `size`; 1,440 to train on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    raw = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    images = F.interpolate(raw, size=(size, size), mode="bilinear", align_corners=False)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    return _split_images(images, labels, tuple(str(d) for d in range(10)))


def load_images(path: Path | str, *, size: int, channels: int) -> ImageData:
    """A folder with one sub-folder of images per class, resized to `size` x `size`.

    Raises:
        InputError: no sub-folders, no images, or an image that cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    root = Path(path)
    folders = sorted(f for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    files = [(f, label) for label, folder in enumerate(folders) for f in sorted(folder.rglob("*"))]
    files = [(f, label) for f, label in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if len(files) < 10:
        raise InputError(
            f"{str(root)!r} holds {len(files)} images in {len(folders)} class folders",
            hint=f"one sub-folder per class, at least 10 images in all ({', '.join(IMAGE_SUFFIXES)})",
        )
    arrays = []
    for file, _ in files:
        try:
            with Image.open(file) as image:
                resized = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.LANCZOS)
        except (UnidentifiedImageError, OSError) as err:
            raise InputError(f"cannot read image {str(file)!r}: {err}", hint="remove it, or save it again") from err
        arrays.append(np.asarray(resized, dtype=np.float32).reshape(size, size, channels).transpose(2, 0, 1))
    images = torch.from_numpy(np.stack(arrays)) / 127.5 - 1
    return _split_images(images, torch.tensor([label for _, label in files]), tuple(f.name for f in folders))


def _split_images(images: Tensor, labels: Tensor, names: tuple[str, ...]) -> ImageData:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cut = max(1, round(len(images) * 0.8))
    train, held_out = order[:cut], order[cut:]
    return ImageData(
        train=images[train],
        train_labels=labels[train],
        held_out=images[held_out],
        held_out_labels=labels[held_out],
        class_names=names,
    )
