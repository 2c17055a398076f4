"""The tokenizer of a model without text: ids go in, ids come out."""

from __future__ import annotations

from typing import NoReturn

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers.base import NOTHING, StreamDecoder, check_ids

__all__ = ["IdTokenizer"]


class IdTokenizer:
    """Knows no text: refuses to encode, and decodes every id to nothing.

    Args:
        vocab_size: of the model.
        reason: why it knows none.
        hint: what to do about it.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        reason: str = "this model has no tokenizer, so that it takes no text",
        hint: str = "give token ids",
    ) -> None:
        self.vocab_size = vocab_size
        self._reason, self._hint = reason, hint

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NoReturn:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(self._reason, hint=self._hint)

    def decode(self, ids: Array) -> str:
        """No text.

        Raises:
            InputError: ids that are not integers [n].
        """
        check_ids(ids)
        return ""

    def stream(self, after: Array = NOTHING) -> StreamDecoder:
        """A decoder that gives no text."""
        return _NoText()


class _NoText:
    def feed(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""
