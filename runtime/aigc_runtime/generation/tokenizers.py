"""From text to token ids and back, also piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, InputError, UnknownNameError
from aigc_runtime.io.printable import shown

__all__ = ["TOKENIZERS", "ByteTokenizer", "StreamDecoder", "Tokenizer", "TokenizerInfo", "make_tokenizer"]

_BYTES = 256
_MAX_ID = 2**31


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """Which tokenizer a model has: a key of `TOKENIZERS`, and the bundle's file that it is in; None for bytes."""

    kind: str
    file: str | None = None


class StreamDecoder(Protocol):
    """Decodes ids as they come."""

    def feed(self, token_id: int) -> str:
        """The text that is complete after this id; a character whose bytes are still coming is held back."""
        ...

    def finish(self) -> str:
        """What is left; incomplete characters become U+FFFD."""
        ...


class Tokenizer(Protocol):
    """What the text pipeline needs."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    def encode(self, text: str) -> Array:
        """Text -> int64 [n]."""
        ...

    def decode(self, ids: Array) -> str:
        """Ids -> text."""
        ...

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        ...


class ByteTokenizer:
    """UTF-8 bytes are the ids; ids from 256 up may stand for no text.

    Args:
        bos: id that begins every text; `encode` puts it in front.
        special: further ids that stand for no text, such as those that end one or fill shorter rows.

    Raises:
        InputError: an id that is a byte, or not an integer.

    >>> ByteTokenizer().encode("hé").tolist()
    [104, 195, 169]
    >>> ByteTokenizer(bos=256).encode("h").tolist()
    [256, 104]
    """

    def __init__(self, *, bos: int | None = None, special: Collection[int] = ()) -> None:
        named = [("a special id", i) for i in special]
        for name, i in named if bos is None else [("bos", bos), *named]:
            if (number := as_integer(i)) is None or not _BYTES <= number < _MAX_ID:
                raise InputError(f"{name} is {shown(i)}", hint=f"must be an integer from {_BYTES} to {_MAX_ID - 1}")
        self._bos = bos
        self._special = sorted({*special, *(() if bos is None else (bos,))})
        self.vocab_size = max([_BYTES - 1, *self._special]) + 1

    def encode(self, text: str) -> Array:
        """Text -> int64 [number of UTF-8 bytes, and one more where there is a `bos`].

        Raises:
            InputError: the text holds a lone surrogate, which UTF-8 cannot hold.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as err:
            raise InputError(
                f"the text cannot be written as UTF-8: {err.reason} at position {err.start}",
                hint="remove that character; it often comes from reading bytes in the wrong encoding",
            ) from err
        front = () if self._bos is None else (self._bos,)
        return np.array([*front, *data], dtype=np.int64)

    def decode(self, ids: Array) -> str:
        """Ids -> text; special ones give none, bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id that stands for nothing, or ids that are not integers [n].
        """
        ids = np.asarray(ids)
        if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            raise InputError(f"ids of dtype {ids.dtype}, shape {ids.shape}", hint="need integers [n]")
        stream = self.stream()
        return "".join(map(stream.feed, ids.tolist())) + stream.finish()

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return _ByteStream(self._special)


class _ByteStream:
    def __init__(self, special: Collection[int]) -> None:
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        if 0 <= token_id < _BYTES:
            return self._decoder.decode(bytes((token_id,)))
        if token_id in self._special:
            return ""
        also = f" or one of {', '.join(map(str, self._special))}" if self._special else ""
        raise InputError(f"token id {token_id} stands for nothing", hint=f"need 0 to {_BYTES - 1}{also}")

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes(info: TokenizerInfo, bos: int | None, others: Collection[int]) -> Tokenizer:
    if info.file is not None:
        raise BundleError(f"the byte tokenizer has the file {info.file!r}", hint="it needs none: must be null")
    try:
        # An id below 256 is a byte, whatever else it is taken for.
        return ByteTokenizer(bos=bos, special=[i for i in others if i >= _BYTES])
    except InputError as err:
        raise BundleError(f"the byte tokenizer: {err.message}", hint=err.hint) from err


TOKENIZERS: dict[str, Callable[[TokenizerInfo, int | None, Collection[int]], Tokenizer]] = {"bytes": _bytes}


def make_tokenizer(info: TokenizerInfo, *, bos: int | None = None, others: Collection[int] = ()) -> Tokenizer:
    """The tokenizer that a manifest describes.

    Args:
        info: which.
        bos: id that begins every text; None for none, and where the tokenizer's file says it.
        others: ids that end a text or fill shorter rows.

    Raises:
        UnknownNameError: an unknown kind.
        BundleError: a file, or ids, that the kind does not take.
    """
    if info.kind not in TOKENIZERS:
        raise UnknownNameError("tokenizer", info.kind, TOKENIZERS)
    return TOKENIZERS[info.kind](info, bos, others)
