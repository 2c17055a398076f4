"""Take text that quality is measured on out of text that is calibrated on, in time that grows with their sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from aigc_models.data.documents import Document
from aigc_models.data.text_data import MIN_SEARCHED_PIECE
from aigc_runtime.core.tensors import Array

__all__ = ["without"]

_CHUNK = 1 << 22
"""Places of a text that are compared at a time."""
_DOUBLINGS = MIN_SEARCHED_PIECE.bit_length() - 1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def without(documents: Iterable[Document], held_out: Sequence[bytes]) -> tuple[Document, ...]:
    """Remove what is held out: whole documents, and in others the pieces of at least `MIN_SEARCHED_PIECE` bytes.

    Shorter pieces may stand anywhere by chance. A piece is found by the hash of its first bytes, so that a text is gone
    through once, however many pieces there are.
    """
    whole = frozenset(held_out)
    by_hash: dict[int, list[bytes]] = {}
    for piece in whole:
        if len(piece) >= MIN_SEARCHED_PIECE:
            by_hash.setdefault(int(_hashes(piece[:MIN_SEARCHED_PIECE])[0]), []).append(piece)
    kept = (document for document in documents if document.content not in whole)
    found = [document if document.ids else _cut(document, by_hash) for document in kept]
    return tuple(document for document in found if document.content)


def _cut(document: Document, by_hash: dict[int, list[bytes]]) -> Document:
    text = document.text
    pieces, end = [], 0
    for start, length in _places(text, by_hash):
        if start >= end:
            pieces.append(text[end:start])
            end = start + length
        else:
            end = max(end, start + length)
    if not end:
        return document
    return Document(text=b"".join((*pieces, text[end:])), is_rendered=document.is_rendered)


def _places(text: bytes, by_hash: dict[int, list[bytes]]) -> Iterator[tuple[int, int]]:
    """Yield where pieces stand in a text, in order, with their lengths."""
    wanted = np.array(sorted(by_hash), dtype=np.uint64)
    if not len(wanted):
        return
    for first in range(0, len(text) - MIN_SEARCHED_PIECE + 1, _CHUNK):
        hashes = _hashes(text[first : first + _CHUNK + MIN_SEARCHED_PIECE - 1])
        for at in np.flatnonzero(np.isin(hashes, wanted)).tolist():
            if (length := _longest(text, first + at, by_hash[int(hashes[at])])) > 0:
                yield first + at, length


def _longest(text: bytes, start: int, pieces: Collection[bytes]) -> int:
    return max((len(piece) for piece in pieces if text.startswith(piece, start)), default=0)


def _hashes(text: bytes) -> Array:
    """Hash every `MIN_SEARCHED_PIECE` bytes that stand in a row: [len(text) - MIN_SEARCHED_PIECE + 1] uint64.

    The hash of 2n bytes is that of the first n times a factor, and that of the next n.
    """
    hashes, length = np.frombuffer(text, np.uint8).astype(np.uint64) + np.uint64(1), 1
    for _ in range(_DOUBLINGS):
        hashes = (hashes[:-length] * _FACTOR) ^ (hashes[length:] + (hashes[:-length] >> np.uint64(29)))
        length *= 2
    return hashes
