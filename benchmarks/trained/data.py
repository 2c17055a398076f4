"""What the small generators are trained on, all of it here without a network.

Fashion-MNIST (MIT; Debian's dataset-fashion-mnist), Noto's color emoji (SIL Open Font License 1.1; Debian's
fonts-noto-color-emoji and unicode-data), scikit-learn's digits (the package draws them by itself), and texts of
Python's standard library (PSF License).
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
from PIL import ImageFont

from aigc_models.data.text_data import standard_library_text
from aigc_runtime.core.tensors import Array

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.open_pictures import (
    FASHION,
    FONT,
    FONT_SIZE,
    LIST,
    PADDING,
    draw_emoji,
    emoji_list,
    read_idx,
    write_fashion,
)

__all__ = ["emoji", "fashion", "fashion_folder", "prose", "python_sources", "windows"]

GROUPS = ("smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places", "flags")
HELD_OUT_EVERY = 5
PROSE_HELD_OUT = 0.1


def fashion(size: int, *, rows: int = 0, held_out: bool = False) -> tuple[Array, Array]:
    """Fashion-MNIST: pictures [N, 1, size, size] float32 in [-1, 1] and labels [N] int64.

    Args:
        size: 32, to which pictures of 28 are padded, or 16: means of four pixels.
        rows: of each class, the first; 0 takes all.
        held_out: the file that is tested on in place of the one that is trained on.
    """
    name = "t10k" if held_out else "train"
    labels = read_idx(FASHION / f"{name}-labels-idx1-ubyte.gz")
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[: rows or None] for label in range(10)]))
    images = read_idx(FASHION / f"{name}-images-idx3-ubyte.gz")[kept]
    full = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING))).astype(np.float32) / 127.5 - 1
    by = full.shape[1] // size
    if by * size != full.shape[1]:
        raise ValueError(f"size is {size}: must divide {full.shape[1]}")
    small = full.reshape(len(full), 1, size, by, size, by).mean(axis=(3, 5))
    return np.ascontiguousarray(small), labels[kept].astype(np.int64)


def fashion_folder(folder: Path, rows: int) -> Path:
    """A folder of Fashion-MNIST's pictures to train on, 32 pixels, a folder for each class."""
    write_fashion(folder, limit=rows or None)
    return folder


@functools.cache
def emoji(size: int) -> tuple[Array, Array]:
    """Color emoji [N, 3, size, size] float32 in [-1, 1]: to train on, and held out (one in five)."""
    font = ImageFont.truetype(FONT, FONT_SIZE)
    text = LIST.read_text(encoding="utf-8")
    drawn = [draw_emoji(characters, font, size) for group, characters in emoji_list(text) if group in GROUPS]
    all_of_them = np.stack([np.asarray(picture) for picture in drawn if picture is not None])
    pictures = all_of_them.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    held_out = np.arange(len(pictures)) % HELD_OUT_EVERY == 0
    return np.ascontiguousarray(pictures[~held_out]), np.ascontiguousarray(pictures[held_out])


def python_sources() -> tuple[Array, Array]:
    """Sources of the standard library as bytes [N] uint8: to train on, and files that are held out."""
    text = standard_library_text()
    return text.train, text.held_out


def prose() -> tuple[Array, Array]:
    """Python's language reference as bytes [N] uint8: to train on, and its last tenth."""
    from pydoc_data.topics import topics

    joined = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace"), np.uint8)
    cut = round(len(joined) * (1 - PROSE_HELD_OUT))
    return joined[:cut], joined[cut:]


def windows(text: Array, length: int, most: int) -> Array:
    """Windows [N, length] int64, evenly over a text [M] uint8, that do not overlap where the text is long enough."""
    count = min(most, max(1, len(text) // length))
    starts = np.linspace(0, len(text) - length, count).astype(np.int64)
    return np.stack([text[start : start + length] for start in starts]).astype(np.int64)
