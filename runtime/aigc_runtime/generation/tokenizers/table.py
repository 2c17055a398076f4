"""The table of tokenizers: how each kind is made from what a manifest says of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from aigc_runtime.errors import BundleError, InputError, UnknownNameError
from aigc_runtime.generation.tokenizers.base import Tokenizer, TokenizerInfo
from aigc_runtime.generation.tokenizers.bytes import N_BYTES, ByteTokenizer
from aigc_runtime.generation.tokenizers.huggingface import HuggingFaceTokenizer
from aigc_runtime.generation.tokenizers.ids import IdTokenizer

__all__ = ["TOKENIZERS", "TokenizerRequest", "make_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class TokenizerRequest:
    """What a tokenizer is made from.

    Attributes:
        info: which, and of which file.
        vocab_size: of the model.
        assets: files of the program by name; None where only the manifest is at hand, and no text is read.
        bos: id that begins every text; None for none. A tokenizer of a file says itself what it puts where.
        others: ids that end a text or fill shorter rows.
    """

    info: TokenizerInfo
    vocab_size: int
    assets: Mapping[str, bytes] | None = field(default_factory=dict)
    bos: int | None = None
    others: Collection[int] = ()


def _bytes(request: TokenizerRequest) -> Tokenizer:
    _require_plain(request.info, "the byte tokenizer")
    try:
        # An id below 256 is a byte, whatever else it is taken for.
        special = [i for i in request.others if i >= N_BYTES]
        return ByteTokenizer(bos=request.bos, special=special, padded_to=request.vocab_size)
    except InputError as err:
        raise BundleError(f"the byte tokenizer: {err.message}", hint=err.hint) from err


def _ids(request: TokenizerRequest) -> Tokenizer:
    _require_plain(request.info, "a model without a tokenizer")
    return IdTokenizer(request.vocab_size)


def _huggingface(request: TokenizerRequest) -> Tokenizer:
    info = request.info
    if info.file is None:
        raise BundleError("the huggingface tokenizer has no file", hint="it needs one, such as tokenizer.json")
    if request.assets is None:
        return IdTokenizer(request.vocab_size, reason=f"{info.file} was not read", hint="open the bundle to run it")
    if info.file not in request.assets:
        raise BundleError(
            f"the program has no file {info.file!r}, which its tokenizer is in", hint="export the model again"
        )
    return HuggingFaceTokenizer(request.assets[info.file], name=info.file, clean_up_spaces=info.clean_up_spaces)


def _require_plain(info: TokenizerInfo, what: str) -> None:
    if info.file is not None:
        raise BundleError(f"{what} has the file {info.file!r}", hint="it needs none: must be null")
    if info.clean_up_spaces:
        raise BundleError(f"{what} has clean_up_spaces", hint="it is for kind 'huggingface': must be false")


TOKENIZERS: dict[str, Callable[[TokenizerRequest], Tokenizer]] = {
    "bytes": _bytes,
    "huggingface": _huggingface,
    "none": _ids,
}


def make_tokenizer(request: TokenizerRequest) -> Tokenizer:
    """The tokenizer that a manifest describes.

    Raises:
        UnknownNameError: an unknown kind.
        TextSupportMissingError: its package is not installed; the hint is the install line.
        BundleError: a file, or ids, that the kind does not take; more tokens than the model knows.
    """
    kind = request.info.kind
    if kind not in TOKENIZERS:
        raise UnknownNameError("tokenizer", kind, TOKENIZERS)
    tokenizer = TOKENIZERS[kind](request)
    # A vocabulary may be padded: a model may know more ids than its tokenizer, never less.
    if tokenizer.vocab_size > request.vocab_size:
        raise BundleError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model {request.vocab_size:,}",
            hint="export the model again with the tokenizer that it was trained with",
        )
    return tokenizer
