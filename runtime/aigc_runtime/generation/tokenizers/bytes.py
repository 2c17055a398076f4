"""A tokenizer whose ids are the bytes of the text."""

from __future__ import annotations

import codecs
from collections.abc import Collection

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers.base import NOTHING, StreamDecoder, check_ids, utf8
from aigc_runtime.io.printable import shown

__all__ = ["N_BYTES", "ByteTokenizer"]

N_BYTES = 256
_MAX_ID = 2**31


class ByteTokenizer:
    """UTF-8 bytes are the ids; ids from 256 up may stand for no text.

    Args:
        bos: id that begins every text; `encode` puts it in front.
        special: further ids that stand for no text, such as those that end one or fill shorter rows.
        padded_to: size of the model's vocabulary; the ids below it that nothing else uses stand for no text.

    Raises:
        InputError: an id that is a byte, or not an integer.

    >>> ByteTokenizer().encode("hé").tolist()
    [104, 195, 169]
    >>> ByteTokenizer(bos=256).encode("h").tolist()
    [256, 104]
    """

    def __init__(self, *, bos: int | None = None, special: Collection[int] = (), padded_to: int = 0) -> None:
        named = [("a special id", i) for i in special]
        for name, i in named if bos is None else [("bos", bos), *named]:
            if (number := as_integer(i)) is None or not N_BYTES <= number < _MAX_ID:
                raise InputError(f"{name} is {shown(i)}", hint=f"must be an integer from {N_BYTES} to {_MAX_ID - 1}")
        self._bos = bos
        self._special = sorted({*special, *(() if bos is None else (bos,))})
        self._padded_to = padded_to
        self.vocab_size = max([N_BYTES - 1, *self._special]) + 1

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Array:
        """Text -> int64 [number of UTF-8 bytes, and one more where there is a `bos` and special tokens are added].

        Raises:
            InputError: the text holds a lone surrogate, which UTF-8 cannot hold.
        """
        front = () if self._bos is None or not add_special_tokens else (self._bos,)
        return np.array([*front, *utf8(text)], dtype=np.int64)

    def decode(self, ids: Array) -> str:
        """Ids -> text; special ones give none, bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id that stands for nothing, or ids that are not integers [n].
        """
        stream = self.stream()
        return "".join(map(stream.feed, check_ids(ids))) + stream.finish()

    def stream(self, after: Array = NOTHING) -> StreamDecoder:
        """A decoder for ids that come one by one; a character that `after` begins is completed."""
        stream = _ByteStream(self._special, self._padded_to)
        for token_id in check_ids(after):
            stream.feed(token_id)
        return stream


class _ByteStream:
    def __init__(self, special: Collection[int], padded_to: int) -> None:
        self._special = special
        self._padded_to = padded_to
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        if 0 <= token_id < N_BYTES:
            return self._decoder.decode(bytes((token_id,)))
        if token_id in self._special or N_BYTES <= token_id < self._padded_to:
            return ""
        also = f" or one of {', '.join(map(str, self._special))}" if self._special else ""
        raise InputError(f"token id {token_id} stands for nothing", hint=f"need 0 to {N_BYTES - 1}{also}")

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)
