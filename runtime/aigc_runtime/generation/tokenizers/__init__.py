"""From text to token ids and back, also piece by piece."""

from __future__ import annotations

from aigc_runtime.generation.tokenizers.base import StreamDecoder, Tokenizer, TokenizerInfo
from aigc_runtime.generation.tokenizers.bytes import ByteTokenizer
from aigc_runtime.generation.tokenizers.huggingface import HuggingFaceTokenizer
from aigc_runtime.generation.tokenizers.ids import IdTokenizer
from aigc_runtime.generation.tokenizers.table import TOKENIZERS, TokenizerRequest, make_tokenizer

__all__ = [
    "TOKENIZERS",
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "IdTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerInfo",
    "TokenizerRequest",
    "make_tokenizer",
]
