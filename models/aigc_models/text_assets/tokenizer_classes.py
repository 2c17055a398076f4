"""Tokenizers that transformers 5 builds anew from their vocabulary, whatever the rest of tokenizer.json says.

Which class reads a folder is AutoTokenizer's choice, by `tokenizer_class` and `model_type`. Most classes take the file
as it is; those of `CLASSES` take its vocabulary, its merges and its post-processor, and bring everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_models.text_assets.special_tokens import SpecialTokens
from aigc_runtime.errors import CheckpointError

__all__ = ["AS_IT_IS", "CLASSES", "TokenizerClass", "choose_class"]

AS_IT_IS = "TokenizersBackend"
"""The class that takes tokenizer.json as it is."""
_GENERIC = (AS_IT_IS, "PreTrainedTokenizer", "PythonBackend")

_OF_MODEL: Mapping[str, str] = {
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "granite": AS_IT_IS,
    "mistral": AS_IT_IS,
    "mixtral": AS_IT_IS,
    "olmo": "GPTNeoXTokenizer",
    "olmo2": AS_IT_IS,
    "opt": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer",
    "phi3": AS_IT_IS,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "stablelm": AS_IT_IS,
    "starcoder2": "GPT2Tokenizer",
}
"""model_type -> the class that transformers knows it by."""
_FOLDERS_ERR = ("phi3", "qwen2")
"""Types of models whose folders often name a wrong class: theirs is taken, whatever the folder says."""

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TokenizerClass:
    """A class that builds its tokenizer anew.

    Attributes:
        parts: (tokenizer_config.json, special tokens) -> the parts of tokenizer.json that it brings; those of `model`
            beside vocabulary and merges.
        defaults: its named tokens where the folder names none.
        adds_named: whether it adds every named token as a special one.
        keeps_post_processor: whether that of the file stays.
        post_processor: (special tokens, their ids) -> the one that it brings; None where it brings none.
    """

    parts: Callable[[Mapping[str, Any], SpecialTokens], Json]
    defaults: Mapping[str, str | None] = field(default_factory=dict)
    adds_named: bool = False
    keeps_post_processor: bool = True
    post_processor: Callable[[SpecialTokens, Mapping[str, Any]], Json] | None = None


def _byte_level(*, prefix: bool, regex: bool = True) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def _bpe(**changes: Any) -> Json:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {"type": "BPE", **plain, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **changes}


_NO_AFFIXES = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
_SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}


def _llama(config: Mapping[str, Any], _special: SpecialTokens) -> Json:
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = ("always" if config.get("legacy", False) else "first") if prefix else "never"
    steps = [_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "model": _bpe(fuse_unk=True, byte_fallback=True),
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": steps},
    }


def _gpt2(config: Mapping[str, Any], _special: SpecialTokens) -> Json:
    return {
        "model": _bpe(**_NO_AFFIXES),
        "normalizer": None,
        "pre_tokenizer": _byte_level(prefix=bool(config.get("add_prefix_space", False))),
        "decoder": _byte_level(prefix=True),
    }


def _gpt_neox(config: Mapping[str, Any], special: SpecialTokens) -> Json:
    return {**_gpt2(config, special), "normalizer": {"type": "NFC"}}


def _qwen2(config: Mapping[str, Any], _special: SpecialTokens) -> Json:
    words = {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    bytes_ = _byte_level(prefix=bool(config.get("add_prefix_space")), regex=False)
    return {
        "model": _bpe(**_NO_AFFIXES),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, bytes_]},
        "decoder": _byte_level(prefix=True),
    }


def _gemma(_config: Mapping[str, Any], special: SpecialTokens) -> Json:
    return {
        "model": _bpe(fuse_unk=True, byte_fallback=True, unk_token=special.text("unk_token")),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": {"type": "Sequence", "decoders": [_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }


_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _clip(_config: Mapping[str, Any], special: SpecialTokens) -> Json:
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    words = {"type": "Split", "pattern": {"Regex": _CLIP_WORDS}, "behavior": "Removed", "invert": True}
    return {
        "model": _bpe(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=special.text("unk_token")),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, _byte_level(prefix=False)]},
        "decoder": _byte_level(prefix=True),
    }


def _clip_ends(special: SpecialTokens, vocabulary: Mapping[str, Any]) -> Json:
    begin, end = ([text := special.text(name), vocabulary.get(text or "")] for name in ("bos_token", "eos_token"))
    for text, index in (begin, end):
        if index is None:
            raise CheckpointError(f"the vocabulary lacks {text!r}, which begins or ends a text", hint="get it again")
    return {"type": "RobertaProcessing", "sep": end, "cls": begin, "trim_offsets": False, "add_prefix_space": False}


_END = "<|endoftext|>"

CLASSES: Mapping[str, TokenizerClass] = {
    "CLIPTokenizer": TokenizerClass(
        parts=_clip,
        defaults={"bos_token": "<|startoftext|>", "eos_token": _END, "unk_token": _END, "pad_token": _END},
        keeps_post_processor=False,
        post_processor=_clip_ends,
    ),
    "LlamaTokenizer": TokenizerClass(
        parts=_llama, defaults={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ),
    "GPT2Tokenizer": TokenizerClass(parts=_gpt2, defaults={"bos_token": _END, "eos_token": _END, "unk_token": _END}),
    "GPTNeoXTokenizer": TokenizerClass(
        parts=_gpt_neox,
        defaults={"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
        keeps_post_processor=False,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        parts=_qwen2, defaults={"eos_token": _END, "unk_token": _END, "pad_token": _END}, adds_named=True
    ),
    "GemmaTokenizer": TokenizerClass(
        parts=_gemma,
        defaults={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
    ),
}


def choose_class(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], tokenizer: bytes | None) -> str:
    """Choose the class that AutoTokenizer takes.

    Args:
        config: of the model.
        tokenizer_config: of tokenizer_config.json.
        tokenizer: content of tokenizer.json; None where there is none.
    """
    model_type = str(config.get("model_type", ""))
    declared = str(tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class") or "").removesuffix("Fast")
    registered = _OF_MODEL.get(model_type)
    if declared == "LlamaTokenizer" and model_type not in _FOLDERS_ERR and b'"ByteLevel"' in (tokenizer or b""):
        return AS_IT_IS
    if not declared:
        return registered or AS_IT_IS
    if registered is not None and registered != declared:
        if registered == AS_IT_IS:
            return AS_IT_IS
        declared = registered if model_type in _FOLDERS_ERR else declared
    return AS_IT_IS if declared in _GENERIC else declared
