"""Photos in their own sizes, as bytes, for generators that enlarge them: the user's own, or scikit-learn's two.

Shapes: C channels (1 gray, 3 RGB), H height, W width, which differ from photo to photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aigc_models.data.image_folder import list_pictures
from aigc_models.data.image_resize import as_channels
from aigc_models.data.images import IMAGE_SUFFIXES, ImageError, read_picture
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.user_file import is_folder
from aigc_runtime.system.host_memory import available_memory

__all__ = ["PhotoData", "load_photos", "sample_photos"]

MIN_PHOTOS = 5
"""Different ones, of which one is held out."""
TRAIN_PHOTO, HELD_OUT_PHOTO = "china.jpg", "flower.jpg"
"""Of 640 x 427 pixels, which scikit-learn brings."""


@dataclass(frozen=True, kw_only=True)
class PhotoData:
    """Photos, split.

    Attributes:
        train: uint8 [C, H, W] each.
        held_out: likewise, at least one.
        notes: what was read and what was done to it, a sentence each.
    """

    train: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """C."""
        return int(self.train[0].shape[0])

    def digest(self) -> str:
        """SHA-256 of everything that training sees."""
        digest = hashlib.sha256()
        for side in (self.train, self.held_out):
            digest.update(f"{len(side)}".encode())
            for photo in side:
                digest.update(f"{tuple(photo.shape)}".encode() + photo.numpy().tobytes())
        return digest.hexdigest()


def sample_photos(channels: int = 3) -> PhotoData:
    """Read scikit-learn's two photos: one to train on, one held out."""
    from sklearn.datasets import load_sample_image

    train, held_out = (
        _as_bytes(load_sample_image(name).transpose(2, 0, 1) / 127.5 - 1, channels)
        for name in (TRAIN_PHOTO, HELD_OUT_PHOTO)
    )
    note = f"scikit-learn's photo {TRAIN_PHOTO}, 640x427 RGB; {HELD_OUT_PHOTO} is held out"
    return PhotoData(train=(train,), held_out=(held_out,), notes=(note, *_gray_note(channels, (3,))))


def load_photos(
    path: Path | str,
    *,
    min_side: int,
    channels: int | None = None,
    background: tuple[float, float, float] | None = None,
) -> PhotoData:
    """Read the photos of a folder, and of the folders in it. One in five is held out, by the hash of its pixels.

    Args:
        path: of the folder.
        min_side: pixels that both sides must have at least.
        channels: 1 or 3; None takes 3 where one photo has them.
        background: RGB in [-1, 1] behind transparent pixels; None refuses them.

    Raises:
        InputError: no folder, or fewer than five different photos.
        ImageError: a photo that cannot be read exactly, or is too small; or all of them are too large for memory.
    """
    root = Path(path)
    if not is_folder(root):
        raise InputError(f"{str(root)!r} is not a folder", hint="give a folder of photos")
    files = list_pictures(root).files
    found: list[Tensor] = []
    for file in files:
        pixels = read_picture(file, background=background).pixels
        _, height, width = pixels.shape
        if min(height, width) < min_side:
            raise ImageError(
                f"{str(file)!r} is {width}x{height}, and what is trained on is {min_side}x{min_side}",
                hint="take it out, or give a smaller --size",
            )
        found.append(_as_bytes(pixels, len(pixels)))
        _check_memory(found, len(files))
    counts = tuple(len(pixels) for pixels in found)
    wanted = channels or max(counts, default=1)
    photos = [_with_channels(pixels, wanted) for pixels in found]
    train, held_out, equal = _sides(photos)
    if len(train) + len(held_out) < MIN_PHOTOS:
        raise InputError(
            f"{str(root)!r} holds {len(train) + len(held_out)} different photos",
            hint=f"need at least {MIN_PHOTOS} ({', '.join(IMAGE_SUFFIXES)}), since one in five is held out",
        )
    notes = [_summary(photos), *_gray_note(wanted, counts), f"{len(held_out)} of them held out"]
    if equal:
        notes.append(f"{equal} there twice, and taken once")
    return PhotoData(train=tuple(train), held_out=tuple(held_out), notes=tuple(notes))


def _as_bytes(pixels: Array, channels: int) -> Tensor:
    """[C, H, W] in [-1, 1] -> uint8."""
    values = np.rint((as_channels(pixels, channels).astype(np.float64) + 1) * 127.5)
    return torch.from_numpy(values.astype(np.uint8))


def _with_channels(photo: Tensor, channels: int) -> Tensor:
    return photo if len(photo) == channels else _as_bytes(photo.numpy() / 127.5 - 1, channels)


def _sides(photos: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], int]:
    """Photos to train on, those with the least hash as held out, and how many were there before."""
    by_hash = {hashlib.sha256(f"{tuple(p.shape)}".encode() + p.numpy().tobytes()).hexdigest(): p for p in photos}
    own = sorted(by_hash)
    cut = max(1, len(own) // 5)
    return [by_hash[h] for h in own[cut:]], [by_hash[h] for h in own[:cut]], len(photos) - len(own)


def _check_memory(found: Sequence[Tensor], count: int) -> None:
    """Refuse photos whose bytes, as many as those read so far on average, will not fit."""
    needed, free = count * sum(photo.numel() for photo in found) // len(found), available_memory()
    if free is not None and needed - sum(photo.numel() for photo in found) > free:
        raise ImageError(
            f"{count:,} photos need about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            hint="give fewer, or smaller ones",
        )


def _summary(photos: Sequence[Tensor]) -> str:
    sizes = sorted({(photo.shape[1], photo.shape[2]) for photo in photos}, key=lambda size: size[0] * size[1])
    (h, w), (h_max, w_max) = sizes[0], sizes[-1]
    own = f"{w}x{h}" if len(sizes) == 1 else f"{len(sizes)} sizes from {w}x{h} to {w_max}x{h_max}"
    return f"{len(photos):,} photos, {own} {'RGB' if photos[0].shape[0] == 3 else 'gray'}"


def _gray_note(channels: int, counts: Sequence[int]) -> tuple[str, ...]:
    if channels == 1 and 3 in counts:
        return ("colors turned to gray (0.299 R + 0.587 G + 0.114 B)",)
    return ("gray repeated as red, green and blue",) if channels == 3 and 1 in counts else ()
