"""Images to train on: scikit-learn's hand-written digits, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_models.data.image_folder import Listing, class_folders, list_pictures, read_pictures
from aigc_models.data.images import IMAGE_SUFFIXES
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines.class_names import check_class_names

__all__ = ["ImageData", "digits", "load_images"]

MIN_PICTURES = 10
MIN_PER_CLASS = 2
MAX_CLASSES = 1000
MIN_TO_HOLD_OUT = 5
"""Different pictures of a class from which on one in five is held out."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labeled images, split.

    Attributes:
        train: [N, C, H, W] float32 in [-1, 1].
        train_labels: [N] int64.
        held_out: [M, C, H, W] float32 in [-1, 1]; M may be 0.
        held_out_labels: [M] int64.
        class_names: one per label.
        notes: what was read and what was done to it, a sentence each.
    """

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 of everything that training sees."""
        digest = hashlib.sha256(repr((self.class_names, tuple(self.train.shape))).encode())
        for part in (self.train, self.train_labels, self.held_out, self.held_out_labels):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def digits(size: int = 16, channels: int = 1) -> ImageData:
    """scikit-learn's 1,797 digits (8x8, 16 gray levels), resized to `size`; 1,440 to train on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    raw = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    images = F.interpolate(raw, size=(size, size), mode="bilinear", align_corners=False)
    if channels == 3:
        images = images.repeat(1, 3, 1, 1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cut = max(1, round(len(images) * 0.8))
    return _split(images, labels, order[:cut], order[cut:], tuple(str(d) for d in range(10)))


def load_images(
    path: Path | str,
    *,
    size: int | None = None,
    channels: int | None = None,
    background: tuple[float, float, float] | None = None,
) -> ImageData:
    """Load a folder with one sub-folder of pictures per class, or of pictures alone, which are one class.

    One in five of a class is held out, by the hash of its pixels: equal pictures are on one side, and the split moves
    little when pictures are added.

    Args:
        path: the folder.
        size: side of the square that every picture is cut and resized to; None takes the pictures' own, one for all.
        channels: 1 or 3; None takes 3 where one picture has colors.
        background: RGB in [-1, 1] behind transparent pixels; None refuses them.

    Raises:
        InputError: no pictures or too few; pictures beside class folders; too many classes, or names that cannot be.
        ImageError: a picture that cannot be read exactly, or sizes that differ, without `size`.
    """
    root = Path(path)
    if channels not in {None, 1, 3}:
        raise InputError(f"channels is {channels}", hint="must be 1 (gray) or 3 (RGB)")
    folders = class_folders(root)
    beside = list_pictures(root, below=False)
    listings = [list_pictures(folder) for folder in folders] if folders else [beside]
    names = tuple(folder.name for folder in folders) or (_folder_name(root),)
    _check_folders(root, beside, listings, names, flat=not folders)
    files = [(file, label) for label, listing in enumerate(listings) for file in listing.files]
    passed_over = [*(beside.passed_over if folders else ()), *(f for ls in listings for f in ls.passed_over)]
    found = read_pictures(
        [file for file, _ in files],
        size=None if size is None else (size, size),
        channels=channels,
        background=background,
        passed_over=passed_over,
    )
    labels = np.array([label for _, label in files])
    train, held_out = _sides(found.digests, labels)
    notes = (*found.notes, _class_notes(names, labels, flat=not folders), f"{len(held_out)} of them held out")
    return _split(torch.from_numpy(found.pixels), torch.from_numpy(labels), train, held_out, names, notes)


def _folder_name(root: Path) -> str:
    """Name the one class of a folder without sub-folders."""
    name = root.resolve().name
    try:
        check_class_names((name,), 1)
    except ConfigError:
        return "all"
    return name


def _check_folders(
    root: Path, beside: Listing, listings: Sequence[Listing], names: tuple[str, ...], *, flat: bool
) -> None:
    layout = f"pictures ({', '.join(IMAGE_SUFFIXES)}) in one sub-folder per class, or all in the folder itself"
    if not flat and beside.files:
        raise InputError(
            f"{str(root)!r} holds {len(beside.files)} pictures, such as {beside.files[0].name!a}, beside "
            f"{len(listings)} class folders",
            hint="put them into a class folder, or all pictures into one folder",
        )
    count = sum(len(listing.files) for listing in listings)
    if count < MIN_PICTURES:
        where = "" if flat else f" in {len(listings)} class folder{'s' if len(listings) > 1 else ''}"
        others = sum(len(listing.passed_over) for listing in (*listings, *(() if flat else (beside,))))
        raise InputError(
            f"{str(root)!r} holds {count} pictures{where}" + (f" and {others} other files" if others else ""),
            hint=f"need at least {MIN_PICTURES} {layout}",
        )
    for name, listing in zip(names, listings, strict=True):
        if len(listing.files) < MIN_PER_CLASS:
            raise InputError(
                f"the class folder {name!a} in {str(root)!r} holds {len(listing.files)} pictures",
                hint=f"need at least {MIN_PER_CLASS} of every class; take other folders out",
            )
    if len(names) > MAX_CLASSES:
        raise InputError(f"{str(root)!r} holds {len(names):,} class folders", hint=f"at most {MAX_CLASSES:,} classes")
    try:
        check_class_names(names, len(names), what="the class folders' names: entry")
    except ConfigError as err:
        raise InputError(f"{str(root)!r}: {err.message}", hint=f"{err.hint}: rename the folder") from err


def _class_notes(names: tuple[str, ...], labels: np.ndarray, *, flat: bool) -> str:
    if flat:
        return "one class: the folder has no sub-folders"
    counts = np.bincount(labels, minlength=len(names))
    shown = ", ".join(f"{name} ({n})" for name, n in list(zip(names, counts.tolist(), strict=True))[:10])
    plural = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {plural}: {shown}{', ...' if len(names) > 10 else ''}"


def _sides(digests: Sequence[str], labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Indices to train on and to hold out: of the different pictures of every class the fifth with the least hash."""
    held: set[str] = set()
    kept: set[str] = set()
    for label in np.unique(labels):
        own = sorted({digest for digest, its in zip(digests, labels, strict=True) if its == label})
        cut = len(own) // 5 if len(own) >= MIN_TO_HOLD_OUT else 0
        held |= set(own[:cut])
        kept |= set(own[cut:])
    # A picture of two classes that one of them keeps is trained on, and so not held out.
    out = torch.tensor([digest in held - kept for digest in digests])
    return torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()


def _split(
    images: Tensor,
    labels: Tensor,
    train: Tensor,
    held_out: Tensor,
    names: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> ImageData:
    return ImageData(
        train=images[train],
        train_labels=labels[train],
        held_out=images[held_out],
        held_out_labels=labels[held_out],
        class_names=names,
        notes=notes,
    )
