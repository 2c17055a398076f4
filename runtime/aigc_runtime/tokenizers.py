"""From text to token ids and back, also piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from aigc_runtime.errors import BundleError, InputError, UnknownNameError
from aigc_runtime.tensors import Array

__all__ = ["TOKENIZERS", "ByteTokenizer", "StreamDecoder", "Tokenizer", "make_tokenizer"]


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
        """Number of ids."""
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
    """UTF-8 bytes are the ids.

    >>> ByteTokenizer().encode("hé").tolist()
    [104, 195, 169]
    """

    vocab_size = 256

    def encode(self, text: str) -> Array:
        """Text -> int64 [number of UTF-8 bytes].

        Raises:
            InputError: the text holds a lone surrogate, which UTF-8 cannot hold.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as err:
            raise InputError(f"the text cannot be written as UTF-8: {err.reason} at position {err.start}") from err
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Array) -> str:
        """Ids -> text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id outside 0 to 255.
        """
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise InputError(f"token ids from {ids.min()} to {ids.max()}", hint="bytes are 0 to 255")
        return ids.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        """A decoder for bytes that come one by one."""
        return _ByteStream()


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        return self._decoder.decode(bytes((token_id,)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes(settings: Mapping[str, object]) -> Tokenizer:
    if settings.keys() != {"kind"}:
        raise BundleError(f"tokenizer settings {dict(settings)}", hint="the byte tokenizer takes no settings")
    return ByteTokenizer()


TOKENIZERS: dict[str, Callable[[Mapping[str, object]], Tokenizer]] = {"bytes": _bytes}


def make_tokenizer(settings: Mapping[str, object]) -> Tokenizer:
    """The tokenizer that a manifest describes, such as `{"kind": "bytes"}`.

    Raises:
        UnknownNameError: an unknown kind.
        BundleError: settings that the kind does not take.
    """
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise UnknownNameError("tokenizer", str(kind), TOKENIZERS)
    return TOKENIZERS[kind](settings)
