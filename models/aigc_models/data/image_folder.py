"""List and read folders of pictures: their files and classes, and all pictures in one size.

The same functions read pictures for training and for calibration.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aigc_models.data.image_resize import as_channels, cut_to_aspect, resize
from aigc_models.data.images import IMAGE_SUFFIXES, ImageError, Picture, read_picture
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.user_file import is_folder
from aigc_runtime.system.host_memory import available_memory

__all__ = ["Listing", "PictureSet", "class_folders", "list_pictures", "read_pictures"]

SHOWN = 3
"""Files that a line names."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures below a folder.

    Attributes:
        files: sorted by name.
        passed_over: other files, which are not read.
    """

    files: tuple[Path, ...]
    passed_over: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures of one size.

    Attributes:
        pixels: [N, C, H, W] float32 in [-1, 1].
        digests: SHA-256 of every picture's pixels in its own size.
        notes: what was read and what was done to it, a sentence each.
    """

    pixels: Array
    digests: tuple[str, ...]
    notes: tuple[str, ...]


def list_pictures(root: Path, *, below: bool = True) -> Listing:
    """List the pictures of a folder and, with `below`, of all folders in it; links to folders are followed.

    Hidden files and folders (a leading dot) are passed over.

    Raises:
        ImageError: a folder that cannot be read or that holds itself, or a picture's name on what is no plain file.
    """
    files: list[Path] = []
    others: list[Path] = []
    _walk(root, files, others, below=below, above=())
    return Listing(files=tuple(sorted(files)), passed_over=tuple(sorted(others)))


def _walk(folder: Path, files: list[Path], others: list[Path], *, below: bool, above: tuple[Path, ...]) -> None:
    try:
        real = folder.resolve(strict=True)
        if real in above:
            raise ImageError(f"the folder {str(folder)!r} is a link to one that it lies in", hint="take it out")
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                others += () if path.is_dir() else (path,)
            elif path.is_dir():
                if below:
                    _walk(path, files, others, below=True, above=(*above, real))
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                others.append(path)
            elif path.is_file():
                files.append(path)
            else:
                what = "a link to nothing" if path.is_symlink() and not path.exists() else "no plain file"
                raise ImageError(f"picture {str(path)!r} is {what}", hint="take it out")
    except OSError as err:
        raise ImageError(
            f"cannot read the folder {str(folder)!r}: {err.strerror or err}", hint="check its permissions"
        ) from err


def class_folders(root: Path) -> tuple[Path, ...]:
    """List the sub-folders of a folder: by number where all names are numbers, else by name; hidden ones left out.

    Raises:
        InputError: no such folder, or one that cannot be read.
    """
    if not is_folder(root):
        raise InputError(f"{str(root)!r} is not a folder", hint="give a folder of pictures")
    try:
        folders = [f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")]
    except OSError as err:
        raise InputError(f"cannot read the folder {str(root)!r}: {err.strerror}", hint="check its permissions") from err
    if all(f.name.isascii() and f.name.isdecimal() for f in folders):
        return tuple(sorted(folders, key=lambda f: (int(f.name), f.name)))
    return tuple(sorted(folders))


def read_pictures(
    files: Sequence[Path],
    *,
    size: tuple[int, int] | None,
    channels: int | None,
    background: tuple[float, float, float] | None = None,
    passed_over: Sequence[Path] = (),
) -> PictureSet:
    """Read pictures into one array: cut to the aspect ratio of `size`, then resized by area.

    Args:
        files: at least one.
        size: (height, width); None takes the pictures' own, which must be one square size.
        channels: 1 or 3; None takes 3 where one picture has colors.
        background: RGB in [-1, 1] behind transparent pixels.
        passed_over: for the report alone.

    Raises:
        ImageError: a picture that cannot be read exactly; or sizes that differ, without `size`.
    """
    log = _Log()
    arrays: list[Array] = []
    for file in files:
        picture = read_picture(file, background=background)
        log.add(file, picture)
        height, width = _wanted(file, picture, size, files[0], log)
        if not arrays:
            _check_memory(len(files), height, width, channels or 3)
        fitted = resize(cut_to_aspect(picture.pixels, height, width), height, width)
        arrays.append(fitted if channels is None else as_channels(fitted, channels))
    wanted = channels or max(len(array) for array in arrays)
    pixels = np.stack([as_channels(array, wanted) for array in arrays])
    notes = [log.summary(pixels.shape), *log.details(), *_others(passed_over)]
    if channels is None and wanted == 3 and not log.has_colors:
        notes.append("no picture has colors: --channels 1 makes a gray model of them")
    return PictureSet(pixels=pixels, digests=tuple(log.digests), notes=tuple(notes))


def _check_memory(count: int, height: int, width: int, channels: int) -> None:
    needed, free = 2 * 4 * count * height * width * channels, available_memory()
    if free is not None and needed > free:
        raise ImageError(
            f"{count:,} pictures of {width}x{height} need up to {needed / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free",
            hint="give fewer, or a smaller size",
        )


def _wanted(file: Path, picture: Picture, size: tuple[int, int] | None, first: Path, log: _Log) -> tuple[int, int]:
    if size is not None:
        return size
    (height, width), (h, w) = log.sizes[0], picture.pixels.shape[1:]
    if (h, w) != (height, width):
        raise ImageError(
            f"the pictures differ in size: {str(first)!r} is {width}x{height}, {str(file)!r} is {w}x{h}",
            hint="say which size the model gets, such as --size 64: they are cut to their middle square and resized",
        )
    if height != width:
        raise ImageError(
            f"the pictures are not square: {str(first)!r} is {width}x{height}",
            hint="say which size the model gets, such as --size 64: they are cut to their middle square and resized",
        )
    return height, width


@dataclass
class _Log:
    """Collects the notes on the pictures that were read."""

    files: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    colored: list[bool] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    notes: dict[str, list[Path]] = field(default_factory=dict)
    has_colors: bool = False

    def add(self, file: Path, picture: Picture) -> None:
        channels, h, w = picture.pixels.shape
        self.files.append(file)
        self.sizes.append((h, w))
        self.colored.append(channels == 3)
        self.has_colors = self.has_colors or bool((picture.pixels != picture.pixels[:1]).any())
        head = f"{picture.pixels.shape}".encode()
        self.digests.append(hashlib.sha256(head + picture.pixels.tobytes()).hexdigest())
        for note in picture.notes:
            self.notes.setdefault(note, []).append(file)

    def summary(self, shape: tuple[int, ...]) -> str:
        """`300 pictures, 64x64 RGB; resized to 32x32 by area`."""
        count, channels, height, width = shape
        sizes = sorted(set(self.sizes), key=lambda s: s[0] * s[1])
        (h, w), (h_max, w_max) = sizes[0], sizes[-1]
        own = f"{w}x{h}" if len(sizes) == 1 else f"{len(sizes)} sizes from {w}x{h} to {w_max}x{h_max}"
        kinds = Counter(self.colored)
        kind = "RGB" if all(self.colored) else f"{kinds[True]} RGB and {kinds[False]} gray" if kinds[True] else "gray"
        done = []
        if any(h * width != w * height for h, w in sizes):
            done.append("cut to the middle")
        if sizes != [(height, width)]:
            grown = any(min(h * width, w * height) < height * width for h, w in sizes)
            done.append(f"resized to {width}x{height} by area{' (smaller ones enlarged, linear)' if grown else ''}")
        if channels == 1 and kinds[True]:
            done.append("turned to gray (0.299 R + 0.587 G + 0.114 B)")
        if channels == 3 and kinds[False]:
            done.append("gray repeated as red, green and blue")
        plural = "picture" if count == 1 else "pictures"
        return f"{count:,} {plural}, {own} {kind}" + (f"; {', '.join(done)}" if done else "")

    def details(self) -> Iterable[str]:
        for note, files in self.notes.items():
            yield f"{_some(files)} {note}"
        first: dict[str, Path] = {}
        twice = []
        for file, digest in zip(self.files, self.digests, strict=True):
            if first.setdefault(digest, file) is not file:
                twice.append((file, first[digest]))
        if twice:
            again, before = twice[0]
            yield f"{len(twice)} there twice, such as {_name(again)}, equal to {_name(before)}"


def _others(passed_over: Sequence[Path]) -> Iterable[str]:
    hidden = [file for file in passed_over if file.name.startswith(".")]
    others = [file for file in passed_over if not file.name.startswith(".")]
    if hidden:
        yield f"{_some(hidden)} passed over: hidden"
    if others:
        yield f"{_some(others)} passed over: only {', '.join(IMAGE_SUFFIXES)} are read"


def _some(files: Sequence[Path]) -> str:
    names = ", ".join(_name(file) for file in files[:SHOWN])
    return f"{len(files)} ({names}{', ...' if len(files) > SHOWN else ''})"


def _name(file: Path) -> str:
    return ascii(f"{file.parent.name}/{file.name}")
