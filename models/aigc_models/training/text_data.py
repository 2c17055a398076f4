"""Text to train on: the Python sources of the standard library, as bytes, or the user's own."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_runtime.errors import InputError
from aigc_runtime.tensors import Array

__all__ = ["TextData", "load_text", "read_text", "standard_library_text"]

HELD_OUT_SHARE = 0.08
TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst", ".json", ".csv", ".html")
PACKAGES = ("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging", "urllib")


@dataclass(frozen=True, kw_only=True)
class TextData:
    """A text as bytes, split.

    Attributes:
        train: [N] uint8.
        held_out: [M] uint8, that training never sees.
    """

    train: Array
    held_out: Array


def standard_library_text() -> TextData:
    """The standard library's own sources: top-level modules and a few packages, no tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.glob("*.py")) + [f for p in PACKAGES for f in sorted((root / p).glob("*.py"))]
    return _split_text(files, root)


def load_text(path: Path | str) -> TextData:
    """A text file, or every text file below a folder.

    Whole files are held out where there are enough of them; of a few files, the end of each.

    Raises:
        InputError: nothing readable there, or too little text to split.
    """
    given = Path(path)
    files = _text_files(given)
    if given.is_file():
        return _require_text(_cut_text(files), given)
    whole = _split_text(files, given)
    share = len(whole.held_out) / max(len(whole.held_out) + len(whole.train), 1)
    fair = HELD_OUT_SHARE / 4 < share < HELD_OUT_SHARE * 4
    return _require_text(whole if fair else _cut_text(files), given)


def read_text(path: Path | str) -> bytes:
    """All of a text file, or of every text file below a folder, in the order of their names.

    Raises:
        InputError: nothing readable there.
    """
    return b"\n".join(_read(file) for file in _text_files(Path(path)))


def _text_files(given: Path) -> list[Path]:
    if given.is_file():
        return [given]
    files = sorted(f for f in given.rglob("*") if f.suffix.lower() in TEXT_SUFFIXES and f.is_file())
    if not files:
        raise InputError(f"no text files in {str(given)!r}", hint=f"looked for {', '.join(TEXT_SUFFIXES)}")
    return files


def _cut_text(files: list[Path]) -> TextData:
    """The end of every file is held out."""
    texts = [np.frombuffer(_read(file), np.uint8) for file in files]
    cuts = [int(len(t) * (1 - HELD_OUT_SHARE)) for t in texts]
    return TextData(
        train=np.concatenate([t[:cut] for t, cut in zip(texts, cuts, strict=True)]),
        held_out=np.concatenate([t[cut:] for t, cut in zip(texts, cuts, strict=True)]),
    )


def _split_text(files: list[Path], root: Path) -> TextData:
    """Whole files go to one side by the hash of their name, so that the split does not move when files are added."""
    sides: tuple[list[bytes], list[bytes]] = ([], [])
    for file in files:
        digest = hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()
        sides[int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE].append(_read(file))
    train, held_out = (np.frombuffer(b"\n".join(side), np.uint8) for side in sides)
    return TextData(train=train, held_out=held_out)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise InputError(
            f"cannot read {str(file)!r}: {err.strerror}", hint="check its permissions, or leave it out"
        ) from err


def _require_text(data: TextData, source: Path) -> TextData:
    if len(data.train) < 4096 or len(data.held_out) < 512:
        raise InputError(
            f"{str(source)!r} holds {len(data.train):,} bytes to train on and {len(data.held_out):,} held out",
            hint="need at least 4,096 and 512: give more files",
        )
    return data
