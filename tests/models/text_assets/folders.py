"""Folders of language models' tokenizers, of every class, made in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.generation.tokenizers.makers import byte_level, llama_like, unigram

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_folder(folder: Path, tokenizer: bytes | None = None, /, **files: Any) -> Path:
    """Write tokenizer.json and other files: `config=` is config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer)
    for name, value in files.items():
        if isinstance(value, str):
            (folder / name).write_text(value, encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def edited(data: bytes, **changes: Any) -> bytes:
    """A tokenizer.json with other parts."""
    return json.dumps({**json.loads(data), **changes}, ensure_ascii=False).encode()


_ENDS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def folders(root: Path) -> dict[str, Path]:
    """One folder of each way that transformers reads a tokenizer."""
    value = json.loads(byte_level())
    vocabulary, merges = value["model"]["vocab"], value["model"]["merges"]
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    gemma = json.loads(llama_like())
    gemma["model"]["vocab"] = {
        {"<s>": "<bos>", "</s>": "<eos>"}.get(token, token): i for token, i in gemma["model"]["vocab"].items()
    }
    gemma.update(added_tokens=[], post_processor=None)
    special = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    decoder = {
        "0": {"content": "<|endoftext|>", **special},
        "1": {"content": "<|im_start|>", **special},
        "2": {"content": "<|im_end|>", **special},
        "400": {"content": "<tool>", **special, "special": False, "lstrip": True},
        "401": {"content": "plain word", **special, "special": False, "normalized": True},
    }
    llama = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    return {
        "as it is": write_folder(
            root / "plain",
            byte_level(bos=True),
            config={"model_type": "llama"},
            tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **_ENDS, "chat_template": CHATML},
        ),
        "no settings": write_folder(root / "bare", byte_level(), config={"model_type": "smollm3"}),
        "added tokens": write_folder(
            root / "added",
            byte_level(),
            config={"model_type": "olmo2"},
            tokenizer_config={
                "tokenizer_class": "GPT2Tokenizer",
                "added_tokens_decoder": decoder,
                "eos_token": "<|im_end|>",
                "bos_token": None,
                "additional_special_tokens": ["<|extra|>", "<|im_start|>"],
            },
        ),
        "maps": write_folder(
            root / "maps",
            byte_level(),
            config={"model_type": "granite"},
            tokenizer_config={"tokenizer_class": "GPT2TokenizerFast"},
            special_tokens_map={"eos_token": {"content": "<|im_end|>", "lstrip": True}, "pad_token": "<|pad|>"},
            added_tokens={"<|pad|>": 400, "<w>": 401},
        ),
        "llama": write_folder(root / "llama", llama_like(), config={"model_type": "llama"}, tokenizer_config=llama),
        "llama, legacy": write_folder(
            root / "legacy", llama_like(), config={"model_type": "llama"}, tokenizer_config={**llama, "legacy": True}
        ),
        "llama, no prefix": write_folder(
            root / "prefix",
            llama_like(),
            config={"model_type": "llama"},
            tokenizer_config={**llama, "add_prefix_space": False, "add_bos_token": False},
        ),
        "llama of mistral": write_folder(
            root / "mistral", llama_like(), config={"model_type": "mistral"}, tokenizer_config=llama
        ),
        "llama over bytes": write_folder(
            root / "llama3", byte_level(), config={"model_type": "llama"}, tokenizer_config={**llama, **_ENDS}
        ),
        "gpt2": write_folder(
            root / "gpt2", byte_level(bos=True), config={"model_type": "gpt2"}, tokenizer_config={"model_max_length": 9}
        ),
        "gpt2, prefix": write_folder(
            root / "gpt2p", byte_level(), config={"model_type": "gpt2"}, tokenizer_config={"add_prefix_space": True}
        ),
        "gpt2, old files": write_folder(
            root / "old",
            config={"model_type": "gpt2"},
            tokenizer_config={"add_bos_token": True, "add_eos_token": True},
            vocab=vocabulary,
            **{"merges.txt": "#version: 0.2\n" + "\n".join(lines) + "\n"},
        ),
        "gpt_neox": write_folder(
            root / "neox",
            byte_level(bos=True),
            config={"model_type": "gpt_neox"},
            tokenizer_config={"tokenizer_class": "GPTNeoXTokenizer", "pad_token": None},
        ),
        "qwen2": write_folder(
            root / "qwen2",
            byte_level(),
            config={"model_type": "qwen2"},
            tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder},
        ),
        "qwen3": write_folder(
            root / "qwen3",
            byte_level(),
            config={"model_type": "qwen3"},
            tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder},
        ),
        "gemma": write_folder(
            root / "gemma",
            json.dumps(gemma).encode(),
            config={"model_type": "gemma2"},
            tokenizer_config={"tokenizer_class": "GemmaTokenizer"},
        ),
        "unigram": write_folder(
            root / "unigram",
            unigram(),
            config={"model_type": "llama"},
            tokenizer_config={
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": True,
                "eos_token": "</s>",
            },
        ),
        "another class": write_folder(
            root / "t5",
            unigram(),
            config={"model_type": "t5"},
            tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>"},
        ),
    }
