"""What every tokenizer does: text to token ids and back, also piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError

__all__ = ["NOTHING", "StreamDecoder", "Tokenizer", "TokenizerInfo", "check_ids", "utf8"]

NOTHING: Array = np.empty(0, dtype=np.int64)
"""No ids."""


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """Which tokenizer a model has.

    Attributes:
        kind: a key of `TOKENIZERS`.
        file: of the bundle that it is in; None for a kind that needs none.
        clean_up_spaces: whether a decoded text loses the spaces before punctuation, as tokenizer_config.json says.
    """

    kind: str
    file: str | None = None
    clean_up_spaces: bool = False


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

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Array:
        """Text -> int64 [n], with the tokens that begin and end a text, or without: a chat's template writes them."""
        ...

    def decode(self, ids: Array) -> str:
        """Ids -> text; special tokens give none."""
        ...

    def stream(self, after: Array = NOTHING) -> StreamDecoder:
        """A decoder for ids that come one by one, behind those of `after`, whose text is not told again."""
        ...


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text.

    Raises:
        InputError: the text holds a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise InputError(
            f"the text cannot be written as UTF-8: {err.reason} at position {err.start}",
            hint="remove that character; it often comes from reading bytes in the wrong encoding",
        ) from err


def check_ids(ids: Array) -> list[int]:
    """Ids as a list.

    Raises:
        InputError: no integers [n].
    """
    ids = np.asarray(ids)
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
        raise InputError(f"ids of dtype {ids.dtype}, shape {ids.shape}", hint="need integers [n]")
    return [int(i) for i in ids.ravel()]
