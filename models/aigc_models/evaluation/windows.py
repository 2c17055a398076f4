"""Windows of documents, on which a language model is judged: tokens of real text, none of it twice.

A document is cut into stretches of as many bytes as a window has on average, some of all stretches are drawn, and each
is tokenized by itself as a tokenizer does a text: what is tokenized does not grow with the text. A window ends where
its document does. A model over bytes reads all documents as one text, as it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aigc_models.data.documents import Document
from aigc_models.data.text_data import SEPARATOR
from aigc_models.evaluation.metrics import text_windows
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers import ByteTokenizer, Tokenizer

__all__ = ["Windows", "draw_texts", "draw_tokens", "draw_windows", "full_windows"]

TOKEN_BYTES = 4
"""Of a token of text, on average: of English three to five, of other languages fewer."""
LONGEST_TOKEN_BYTES = 16
"""Bytes that are tokenized for every token that is asked for, at most."""
MIN_WINDOWS, MIN_LENGTH = 8, 16
"""Of a short text the windows are shorter, until there are so many of them, or they are so short."""
MAX_WORD_BYTES = 64
"""Where a text has no space for so long, a stretch begins within a word."""
MAX_CHARACTER_BYTES = 4
"""Of UTF-8."""
DRAWS = 8
"""For every piece of text that is drawn: some are but space."""
HALF_CHARACTER = "\ufffd"
_SPACES = b" \t\r\n"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of tokens: N of them, each of at most S tokens to predict.

    Attributes:
        ids: [N, S + 1] int64: inputs are `[:, :-1]`, targets `[:, 1:]`; behind a window's end stands its last token.
        lengths: [N] int64, tokens to predict in each, 1 to S.
        text_bytes: [N] int64, bytes of the text that these tokens stand for; 0 for a model without text.
    """

    ids: Array
    lengths: Array
    text_bytes: Array

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.ids)

    @property
    def counted(self) -> Array:
        """Which of the tokens to predict count: [N, S] bool."""
        counted: Array = np.arange(self.ids.shape[1] - 1) < self.lengths[:, None]
        return counted


def full_windows(ids: Array, text_bytes: Array | int) -> Windows:
    """Make windows whose every token counts, from ids [N, S + 1]."""
    lengths = np.full(len(ids), ids.shape[1] - 1, dtype=np.int64)
    return Windows(
        ids=ids, lengths=lengths, text_bytes=np.broadcast_to(np.asarray(text_bytes, np.int64), lengths.shape)
    )


def draw_windows(documents: Sequence[Document], tokenizer: Tokenizer, *, count: int, length: int, seed: int) -> Windows:
    """Draw windows, seeded; of a short text fewer than asked for, and shorter ones.

    Args:
        documents: at least one.
        tokenizer: of the model.
        count: windows to draw, at most.
        length: tokens to predict in each, at most.
        seed: of the draw.

    Raises:
        InputError: there is not enough text for two windows, or the tokenizer fails at it.
    """
    if isinstance(tokenizer, ByteTokenizer):
        ids = text_windows(_byte_ids(documents, tokenizer), count=count, length=length, seed=seed)
        return full_windows(ids, (ids[:, 1:] < 256).sum(axis=1))
    drawn = _drawn(documents, tokenizer, count=count, length=length, seed=seed)
    rows = [ids for ids in drawn if len(ids) > 1]
    if len(rows) < 2:
        raise InputError(
            f"the text gives {len(rows)} windows of tokens to evaluate on", hint="at least 2 are needed: give more text"
        )
    longest = max(map(len, rows))
    return Windows(
        ids=np.stack([np.pad(ids, (0, longest - len(ids)), mode="edge") for ids in rows]),
        lengths=np.array([len(ids) - 1 for ids in rows], dtype=np.int64),
        text_bytes=np.array([_text_bytes(tokenizer, ids) for ids in rows], dtype=np.int64),
    )


def draw_tokens(documents: Sequence[Document], tokenizer: Tokenizer, *, count: int, length: int, seed: int) -> Array:
    """Draw tokens of text from everywhere in the documents, one stretch behind the other: [N] int64.

    Args:
        documents: at least one.
        tokenizer: of the model.
        count: windows that the tokens are for; a model over bytes gets all of the text.
        length: tokens in a window.
        seed: of the draw.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return _byte_ids(documents, tokenizer)
    # Twice as many stretches as windows: one window in every two stretches.
    drawn = _drawn(documents, tokenizer, count=2 * count, length=length, seed=seed)
    return np.concatenate([np.empty(0, dtype=np.int64), *drawn])


def draw_texts(documents: Sequence[Document], *, count: int, size: int, seed: int) -> list[str]:
    """Draw pieces of text that begin with a word: as many as asked for, the same twice where there are not so many.

    Args:
        documents: with text.
        count: of the pieces.
        size: characters in each, at most.
        seed: of the draw.
    """
    rng, found = np.random.default_rng(seed), list[str]()
    sizes = np.array([len(document.text) for document in documents], dtype=np.float64)
    for at in rng.choice(len(documents), size=count * DRAWS, p=sizes / sizes.sum()).tolist():
        text = documents[at].text
        start = _word_start(text, int(rng.integers(max(1, len(text) - size))))
        piece = text[start : start + size * MAX_CHARACTER_BYTES].decode("utf-8", errors="ignore")[:size]
        if piece.strip():
            found.append(piece)
    return [found[i % len(found)] for i in range(count)] if found else ["a"] * count


def _byte_ids(documents: Sequence[Document], tokenizer: ByteTokenizer) -> Array:
    """The bytes of the documents, UTF-8 or not, a newline between two."""
    text = np.frombuffer(SEPARATOR.join(document.text for document in documents), np.uint8)
    return np.concatenate([tokenizer.encode(""), text.astype(np.int64)])


def _drawn(documents: Sequence[Document], tokenizer: Tokenizer, *, count: int, length: int, seed: int) -> list[Array]:
    """Draw stretches in the order of the documents, and tokenize each: at most `length` + 1 tokens."""
    counts = _stretches(documents, length)
    while counts.sum() < min(count, MIN_WINDOWS) and length > MIN_LENGTH:
        length = max(length // 2, MIN_LENGTH)
        counts = _stretches(documents, length)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    found = []
    for stretch in chosen.tolist():
        at = int(np.searchsorted(ends, stretch, side="right"))
        share = (stretch - int(ends[at] - counts[at])) / int(counts[at])
        found.append(_tokens(documents[at], tokenizer, share, length + 1))
    return found


def _stretches(documents: Sequence[Document], length: int) -> Array:
    """Count the stretches of every document."""
    sizes = [len(document.ids) or -(-len(document.text) // TOKEN_BYTES) for document in documents]
    return np.array([max(1, size // (length + 1)) for size in sizes], dtype=np.int64)


def _tokens(document: Document, tokenizer: Tokenizer, share: float, most: int) -> Array:
    """Tokenize what begins behind a share of a document: at most `most` tokens."""
    if document.ids:
        start = int(share * len(document.ids))
        return np.array(document.ids[start : start + most], dtype=np.int64)
    text = document.text
    start = _word_start(text, int(share * len(text)))
    piece = text[start : start + LONGEST_TOKEN_BYTES * most]
    # Only the end of the piece may be half a character: it begins with a whole one.
    words = piece.decode("utf-8", errors="ignore")
    return tokenizer.encode(words, add_special_tokens=not document.is_rendered)[:most]


def _word_start(text: bytes, start: int) -> int:
    """Find where the next word begins; in a text without spaces, the next character."""
    if start == 0:
        return 0
    for at in range(start, min(start + MAX_WORD_BYTES, len(text) - 1)):
        if text[at - 1] in _SPACES:
            return at
    while start < len(text) and text[start] & 0xC0 == 0x80:
        start += 1
    return start


def _text_bytes(tokenizer: Tokenizer, ids: Array) -> int:
    """Count the bytes of the text that all tokens but the first stand for; those of half a character do not count."""
    stream = tokenizer.stream()
    told = [stream.feed(token) for token in ids.tolist()]
    told.append(stream.finish().rstrip(HALF_CHARACTER))
    return sum(len(text.encode("utf-8")) for text in told[1:])
