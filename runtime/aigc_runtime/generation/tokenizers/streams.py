"""Decode ids as they come, so that the pieces join to what the whole sequence decodes to.

What a token adds to a text depends on its neighbors in few ways, by the decoder that tokenizer.json names:

1. `ByteLevel`: tokens are bytes, and a character may be spread over several.
2. `ByteFallback`: a run of tokens `<0xNN>` is text if all of it is UTF-8, else one U+FFFD each: a run is held until it
   ends.
3. `Metaspace`, `Strip`, `WordPiece`: the first token of a text is written without its space.
4. Everything else is a matter of one token.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["SpaceCleaner", "Stream", "clean_up", "make_stream"]

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Where spaces go, in this order; each becomes itself without its spaces."""


class Stream(Protocol):
    """A decoder that can begin behind other ids."""

    def start(self, ids: list[int]) -> None:
        """Take ids whose text is not told."""
        ...

    def feed(self, token_id: int) -> str:
        """See `StreamDecoder`."""
        ...

    def finish(self) -> str:
        """See `StreamDecoder`."""
        ...


Decode = Callable[[list[int]], str]
Token = Callable[[int], "str | None"]
"""Id -> token as the vocabulary has it; None for one that gives no text."""


def make_stream(decoder: Mapping[str, Any] | None, *, decode: Decode, token: Token) -> Stream:
    """A stream for the decoder of a tokenizer.json.

    Args:
        decoder: as the file has it.
        decode: ids -> text, of the whole.
        token: id -> token.
    """
    kinds = [step.get("type") for step in _steps(decoder)]
    if kinds == ["ByteLevel"]:
        return _ByteLevelStream(token)
    if _is_local(decoder):
        return _WindowStream(decode, token, has_bytes="ByteFallback" in kinds)
    return _WholeStream(decode)


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [inner for step in decoder.get("decoders", []) for inner in _steps(step)]


def _is_local(decoder: Mapping[str, Any] | None) -> bool:
    """Whether a token adds the same wherever it stands, but for the beginning and runs of bytes."""
    fused = False
    for step in _steps(decoder):
        kind = step.get("type")
        if kind == "Fuse":
            fused = True
        elif kind == "Strip":
            if step.get("stop") != 0:
                return False
        elif kind == "Replace":
            # Over the joined text a pattern may match across tokens.
            if fused and len(step.get("pattern", {}).get("String", "")) != 1:
                return False
        elif kind not in ("ByteFallback", "Metaspace", "WordPiece", "BPEDecoder"):
            return False
    return True


class _ByteLevelStream:
    """Tokens are written in 256 characters that stand for bytes; one with another character is text itself."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def start(self, ids: list[int]) -> None:
        for token_id in ids:
            self.feed(token_id)

    def feed(self, token_id: int) -> str:
        token = self._token(token_id)
        if token is None:
            return ""
        try:
            data = bytes([_BYTE_OF[char] for char in token])
        except KeyError:
            data = token.encode("utf-8")
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes_of_characters() -> dict[str, int]:
    """Radford et al. 2019's table: bytes that print stand for themselves, the others for characters from 256 up."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {**{chr(b): b for b in printing}, **{chr(256 + n): b for n, b in enumerate(others)}}


_BYTE_OF = _bytes_of_characters()


class _WindowStream:
    """Decodes what is not told yet behind a few ids that are: those begin the text, so that the new ones do not."""

    def __init__(self, decode: Decode, token: Token, *, has_bytes: bool) -> None:
        self._decode, self._token = decode, token
        self._has_bytes = has_bytes
        self._before: list[int] = []
        self._told = ""
        self._new: list[int] = []

    def start(self, ids: list[int]) -> None:
        ids = [i for i in ids if self._token(i) is not None]
        whole = len(ids)
        while whole and self._is_byte(ids[whole - 1]):
            whole -= 1
        self._before, self._new = ids[:whole], ids[whole:]
        self._told = self._decode(self._before)

    def feed(self, token_id: int) -> str:
        if self._token(token_id) is None:
            return ""
        self._new.append(token_id)
        return "" if self._is_byte(token_id) else self._tell()

    def finish(self) -> str:
        return self._tell() if self._new else ""

    def _is_byte(self, token_id: int) -> bool:
        return self._has_bytes and _BYTE_TOKEN.fullmatch(self._token(token_id) or "") is not None

    def _tell(self) -> str:
        piece = self._decode([*self._before, *self._new])[len(self._told) :]
        alone = self._decode(self._new)
        # Ids that give nothing when they begin a text cannot stand for its beginning.
        if alone:
            self._before, self._told = self._new, alone
        else:
            self._before, self._told = [*self._before, *self._new], self._told + piece
        self._new = []
        return piece


class _WholeStream:
    """Tells all at the end, for a decoder of which nothing is known."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._told = 0

    def start(self, ids: list[int]) -> None:
        self._ids = list(ids)
        self._told = len(self._decode(self._ids))

    def feed(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def finish(self) -> str:
        return self._decode(self._ids)[self._told :]


def clean_up(text: str) -> str:
    """Remove the spaces before punctuation and shortened words, as transformers does.

    >>> clean_up("do n't stop , it 's fine .")
    "don't stop, it's fine."
    """
    for spaced in _CLEANED:
        text = text.replace(spaced, spaced.strip())
    return text


class SpaceCleaner:
    """Cleans up what a stream tells; what may still change is held."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held = ""

    def feed(self, token_id: int) -> str:
        """The text that is complete after this id."""
        self._held += self._stream.feed(token_id)
        # Only spaces go, and what goes begins with one. A cut before a space is final unless that space can be the
        # end of " ' ", or go itself and join " n" with "'t".
        for at in range(len(self._held) - 2, 0, -1):
            if self._held[at] == " " and self._held[at - 1] not in " '" and self._held[at + 1] != "'":
                done, self._held = self._held[:at], self._held[at:]
                return clean_up(done)
        return ""

    def finish(self) -> str:
        """What is left."""
        return clean_up(self._held + self._stream.finish())
