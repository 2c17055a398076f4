"""From text to token ids and back, also piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, InputError, UnknownNameError
from aigc_runtime.io.printable import shown

__all__ = ["TOKENIZERS", "ByteTokenizer", "StreamDecoder", "Tokenizer", "make_tokenizer"]

_BYTES = 256
_MAX_ID = 2**31


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
        eos: id that ends a text.
        pad: id that fills shorter rows.

    Raises:
        InputError: an id that is a byte, or not an integer.

    >>> ByteTokenizer().encode("hé").tolist()
    [104, 195, 169]
    >>> ByteTokenizer(bos=256).encode("h").tolist()
    [256, 104]
    """

    def __init__(self, *, bos: int | None = None, eos: int | None = None, pad: int | None = None) -> None:
        special = {name: i for name, i in (("bos", bos), ("eos", eos), ("pad", pad)) if i is not None}
        for name, i in special.items():
            if (number := as_integer(i)) is None or not _BYTES <= number < _MAX_ID:
                raise InputError(f"{name} is {shown(i)}", hint=f"must be an integer from {_BYTES} to {_MAX_ID - 1}")
        self._bos = bos
        self._special = sorted(set(special.values()))
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
        """Ids -> text; `bos`, `eos` and `pad` give none, bytes that are not UTF-8 become U+FFFD.

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


def _bytes(settings: Mapping[str, object]) -> Tokenizer:
    names = ("bos", "eos", "pad")
    if not settings.keys() <= {"kind", *names}:
        raise BundleError(
            f"tokenizer settings {dict(settings)}", hint="the byte tokenizer takes kind, and if wanted bos, eos, pad"
        )
    given: dict[str, Any] = {name: settings[name] for name in names if name in settings}
    try:
        return ByteTokenizer(**given)
    except InputError as err:
        raise BundleError(f"tokenizer settings {dict(settings)}: {err.message}", hint=err.hint) from err


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
