"""Small tokenizers of every form, made in code by the `tokenizers` library, as tokenizer.json files."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

tokenizers: Any = pytest.importorskip("tokenizers")
models, trainers = tokenizers.models, tokenizers.trainers
normalizers, pre_tokenizers = tokenizers.normalizers, tokenizers.pre_tokenizers
decoders, processors = tokenizers.decoders, tokenizers.processors

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.",
    "def main(argv: list[str]) -> int:\n    return len(argv)  # 12345 67890",
    "naïve café Ärger, שלום, 日本語のテキスト, 한국어, текст, 👩‍🚀 🎉",
    "Hello world! How are you? I'm fine, it's 3.14159 and   spaces\t\ttabs.",
] * 8


def _finished(tokenizer: Any) -> bytes:
    return str(tokenizer.to_str()).encode("utf-8")


@cache
def byte_level(*, bos: bool = False, vocab_size: int = 400) -> bytes:
    """As GPT-2 and SmolLM have it: pairs of bytes, merged; specials; a BOS in front of every text if asked for."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 1)]
        )
    return _finished(tokenizer)


@cache
def llama_like() -> bytes:
    """As Llama 2 has it: spaces are written as U+2581, unknown characters as tokens of bytes; BOS in front."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        show_progress=False,
        limit_alphabet=60,
        max_token_length=8,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    value: dict[str, Any] = _plain_bytes(tokenizer)
    tokenizer = tokenizers.Tokenizer.from_str(_dumped(value))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return _finished(tokenizer)


def _plain_bytes(tokenizer: Any) -> dict[str, Any]:
    """The bytes were given to the trainer as special tokens, so that they have ids; they are none."""
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if not token["content"].startswith("<0x")]
    return value


def _dumped(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


@cache
def unigram() -> bytes:
    """As T5 and XLM-R have it: a Unigram model over Metaspace, with an end of text."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return _finished(tokenizer)


@cache
def word_piece() -> bytes:
    """As BERT has it: words in lower case, and their ends behind ##."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return _finished(tokenizer)


MAKERS = {"byte-level": byte_level, "llama": llama_like, "unigram": unigram, "word-piece": word_piece}
