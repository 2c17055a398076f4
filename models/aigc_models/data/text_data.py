"""Text to train on: the Python sources of the standard library, as bytes, or the user's own."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from aigc_models.data.text_files import TextFiles, read_text_files
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError

__all__ = ["SEPARATOR", "TextData", "load_text", "standard_library_text"]

HELD_OUT_SHARE = 0.08
SEPARATOR = b"\n"
"""Stands between two files."""
PACKAGES = ("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging", "urllib")
MIN_TRAIN, MIN_HELD_OUT = 4096, 512
MIN_SEARCHED_PIECE = 64
MAX_SEARCHED_BYTES = 2**34
"""How much text is searched for held-out pieces that training sees elsewhere, which takes some seconds."""


@dataclass(frozen=True, kw_only=True)
class TextData:
    """A text as bytes, split.

    Attributes:
        train_pieces: whole files or their beginnings, in the order of the files' names.
        held_out_pieces: whole files or their ends, of which training sees nothing.
        left_out: files of a folder that were not read, since their names are not those of texts.
        raw: whether it is one file whose name is not that of a text, taken as the bytes that it holds.
        seen: bytes that were to be held out and stand in another file that is trained on: they are on neither side.
    """

    train_pieces: tuple[bytes, ...]
    held_out_pieces: tuple[bytes, ...]
    left_out: tuple[str, ...] = ()
    raw: bool = False
    seen: int = 0

    @cached_property
    def train(self) -> Array:
        """The pieces to train on, with a newline between two: [N] uint8."""
        return _joined(self.train_pieces)

    @cached_property
    def held_out(self) -> Array:
        """The pieces held out, with a newline between two: [M] uint8."""
        return _joined(self.held_out_pieces)


def _joined(pieces: Sequence[bytes]) -> Array:
    return np.frombuffer(SEPARATOR.join(pieces), np.uint8)


def standard_library_text() -> TextData:
    """The standard library's own sources: top-level modules and a few packages, no tests.

    Whole files are held out by the hash of their name.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.glob("*.py")) + [f for p in PACKAGES for f in sorted((root / p).glob("*.py"))]
    names = [file.relative_to(root).as_posix().encode() for file in files]
    train, held_out = _split([file.read_bytes() for file in files], names)
    return TextData(train_pieces=train, held_out_pieces=held_out)


def load_text(path: Path | str) -> TextData:
    """Load a text file, or every text file below a folder (see `read_text_files`), or the bytes of any single file.

    Whole files are held out where there are enough of them, by the hash of their content: files that are equal are on
    one side, and none moves when others are added. Of a few files, the end of each is held out. A piece that stands
    whole in another file that is trained on is not held out.

    Raises:
        InputError: nothing readable there, or too little text to split.
    """
    found = read_text_files(path, raw_allowed=True)
    train, held_out = _split(found.texts, found.texts)
    share = sum(map(len, held_out)) / max(sum(map(len, found.texts)), 1)
    if len(found.texts) > 1 and HELD_OUT_SHARE / 4 < share < HELD_OUT_SHARE * 4:
        unseen = _unseen([(piece, train) for piece in held_out])
        if sum(map(len, unseen)) >= MIN_HELD_OUT:
            return _made(found, train, held_out, unseen, Path(path))
    cuts = [int(len(text) * (1 - HELD_OUT_SHARE)) for text in found.texts]
    train = tuple(text[:cut] for text, cut in zip(found.texts, cuts, strict=True))
    held_out = tuple(text[cut:] for text, cut in zip(found.texts, cuts, strict=True))
    # A file may repeat itself; what is searched is every other one.
    fronts = list(zip(found.texts, train, strict=True))
    others = [tuple(front for whole, front in fronts if whole != text) for text in found.texts]
    return _made(found, train, held_out, _unseen(list(zip(held_out, others, strict=True))), Path(path))


def _made(
    found: TextFiles,
    train: Sequence[bytes],
    held_out: Sequence[bytes],
    unseen: tuple[bytes, ...],
    source: Path,
) -> TextData:
    data = TextData(
        train_pieces=tuple(piece for piece in train if piece),
        held_out_pieces=unseen,
        left_out=found.left_out,
        raw=found.raw,
        seen=sum(map(len, held_out)) - sum(map(len, unseen)),
    )
    sizes = len(data.train), len(data.held_out)
    if sizes[0] < MIN_TRAIN or sizes[1] < MIN_HELD_OUT:
        seen = f"; {data.seen:,} more stand in other files, too, and so cannot be held out" if data.seen else ""
        raise InputError(
            f"{str(source)!r} holds {sizes[0]:,} bytes to train on and {sizes[1]:,} held out{seen}",
            hint=f"need at least {MIN_TRAIN:,} and {MIN_HELD_OUT}: give more files",
        )
    return data


def _unseen(pairs: Sequence[tuple[bytes, Sequence[bytes]]]) -> tuple[bytes, ...]:
    """The pieces that are no part of the texts beside them; a short one may be so by chance."""
    unseen, searched = [], 0
    for piece, texts in pairs:
        searched += sum(map(len, texts))
        search = len(piece) >= MIN_SEARCHED_PIECE and searched <= MAX_SEARCHED_BYTES
        if not (search and any(piece in text for text in texts)):
            unseen.append(piece)
    return tuple(unseen)


def _split(texts: Sequence[bytes], keys: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Whole texts go to one side by the hash of their key."""
    sides: tuple[list[bytes], list[bytes]] = ([], [])
    for text, key in zip(texts, keys, strict=True):
        digest = hashlib.sha256(key).digest()
        sides[int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE].append(text)
    return tuple(sides[0]), tuple(sides[1])
