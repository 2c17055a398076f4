"""A tokenizer of a tokenizer.json file, run by the `tokenizers` library."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, BundleError, InputError, TextSupportMissingError
from aigc_runtime.generation.tokenizers.base import NOTHING, StreamDecoder, check_ids, utf8
from aigc_runtime.generation.tokenizers.streams import SpaceCleaner, clean_up, make_stream

if TYPE_CHECKING:
    import tokenizers

__all__ = ["MAX_TOKENIZER_BYTES", "TEXT_INSTALL", "HuggingFaceTokenizer", "import_tokenizers", "library_errors"]

MAX_TOKENIZER_BYTES = 2**27
"""Size of a tokenizer.json: three times the largest that is published."""
TEXT_INSTALL = "pip install 'aigc-runtime[text]'"
_MAX_ID = 2**31


def import_tokenizers() -> Any:
    """The library.

    Raises:
        TextSupportMissingError: it is not installed; the hint is the install line.
    """
    try:
        import tokenizers
    except ImportError as err:
        raise TextSupportMissingError(
            "this model's tokenizer needs the package tokenizers, which is not installed", hint=TEXT_INSTALL
        ) from err
    return tokenizers


@contextlib.contextmanager
def library_errors(what: str, error: type[AigcError], hint: str) -> Iterator[None]:
    """Turn what the library raises into an error of ours; it panics with what is no `Exception`.

    Args:
        what: failed, for the message.
        error: the type to raise.
        hint: what to do.
    """
    try:
        yield
    except Exception as err:
        raise error(f"{what}: {err}", hint=hint) from err
    except BaseException as err:
        if type(err).__name__ != "PanicException":
            raise
        raise error(f"{what}: the library failed: {err}", hint=hint) from err


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What the library made of a file; nothing changes it any more.

    Attributes:
        tokenizer: of the library.
        vocab_size: one more than the largest id.
        added: the tokens beside the vocabulary, by id.
        decoder: the decoder as a file has it.
    """

    tokenizer: tokenizers.Tokenizer
    vocab_size: int
    added: dict[int, Any]
    decoder: dict[str, Any] | None


@functools.lru_cache(maxsize=2)
def _load(data: bytes, name: str) -> _Loaded:
    """Load a file.

    The last two are kept, since a pipeline may have as many: an export makes the same tokenizer many times, each in up
    to a second.
    """
    hint = "the file is damaged, or not a tokenizer: get it again"
    with library_errors(f"{name} cannot be read", BundleError, hint):
        tokenizer = import_tokenizers().Tokenizer.from_str(data.decode("utf-8"))
        # A file may say that every text is cut, or filled, to a length: no generation wants that.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocab_size = _vocab_size(tokenizer)
        decoder = tokenizer.decoder
        # The library tells what it is as it would be written to a file.
        state = None if decoder is None else json.loads(decoder.__getstate__())
        added = tokenizer.get_added_tokens_decoder()
    if not vocab_size:
        raise BundleError(f"{name} has no tokens", hint="get the model's own tokenizer.json")
    return _Loaded(tokenizer=tokenizer, vocab_size=vocab_size, added=added, decoder=state)


def _vocab_size(tokenizer: tokenizers.Tokenizer) -> int:
    """One more than the largest id. Most vocabularies have no holes, and to list one takes a tenth of a second."""
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    if all(map(tokenizer.id_to_token, range(count))):
        return int(count)
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


class HuggingFaceTokenizer:
    """Encodes and decodes as transformers does with the same file.

    Args:
        data: content of a tokenizer.json.
        name: of the file, for messages.
        clean_up_spaces: whether a decoded text loses the spaces before punctuation. Where tokens are merged pairs of
            bytes it would lose real ones, and nothing is done, as in transformers.

    Raises:
        TextSupportMissingError: the library is not installed; the hint is the install line.
        BundleError: the file is damaged, or too large.
    """

    def __init__(self, data: bytes, *, name: str = "tokenizer.json", clean_up_spaces: bool = False) -> None:
        import_tokenizers()
        if len(data) > MAX_TOKENIZER_BYTES:
            raise BundleError(f"{name} has {len(data):,} bytes", hint=f"at most {MAX_TOKENIZER_BYTES:,} are allowed")
        self.name = name
        loaded = _load(data, name)
        self._tokenizer = loaded.tokenizer
        self.vocab_size = loaded.vocab_size
        self.added_tokens = tuple(token.content for _, token in sorted(loaded.added.items()))
        self._special = frozenset(i for i, token in loaded.added.items() if token.special)
        self._decoder = loaded.decoder
        self._cleans = clean_up_spaces and not self.is_bpe

    @property
    def is_bpe(self) -> bool:
        """Whether its tokens are merged pairs, of bytes or characters."""
        return type(self._tokenizer.model).__name__ == "BPE"

    def token(self, token_id: int) -> str | None:
        """What the vocabulary has at an id; None where it has nothing, as behind the end of a padded one."""
        found: str | None = self._tokenizer.id_to_token(token_id) if 0 <= token_id < _MAX_ID else None
        return found

    def id_of(self, token: str) -> int | None:
        """The id of a token; None where the vocabulary does not have it."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def adds(self, token_id: int) -> bool:
        """Whether it puts this token around every text."""
        return token_id in self.encode("").tolist()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Array:
        """Text -> int64 [n], special tokens around it as the file's post-processor says.

        Raises:
            InputError: a lone surrogate, or a text at which the library fails.
        """
        utf8(text)
        with library_errors(
            f"{self.name} cannot encode the text", InputError, "shorten the text, or check the tokenizer"
        ):
            ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Array) -> str:
        """Ids -> text; special tokens, and ids that the vocabulary does not have, give none.

        Raises:
            InputError: ids that are not integers [n].
        """
        text = self._decode(check_ids(ids))
        return clean_up(text) if self._cleans else text

    def stream(self, after: Array = NOTHING) -> StreamDecoder:
        """A decoder for ids that come one by one; the pieces joined are what `decode` adds to the text of `after`."""
        stream = make_stream(self._decoder, decode=self._decode, token=self._shown_token)
        stream.start(check_ids(after))
        return SpaceCleaner(stream) if self._cleans else stream

    def _decode(self, ids: list[int]) -> str:
        # Some decoders of the library fail at no tokens.
        if not (ids := [i for i in ids if 0 <= i < _MAX_ID]):
            return ""
        with library_errors(f"{self.name} cannot decode the ids", InputError, "check the tokenizer"):
            text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _shown_token(self, token_id: int) -> str | None:
        return None if token_id in self._special else self.token(token_id)
