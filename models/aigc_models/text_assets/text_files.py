"""The files of a folder that say something about text, read as they are and bounded in size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_runtime.errors import CheckpointError
from aigc_runtime.generation.chat import MAX_TEMPLATE_BYTES
from aigc_runtime.generation.tokenizers.huggingface import MAX_TOKENIZER_BYTES
from aigc_runtime.io.strict_json import refuse_half_characters
from aigc_runtime.io.user_file import is_folder, path_exists, read_file

__all__ = ["TextFiles", "parse_json", "read_text_files"]

MAX_CONFIG_BYTES = 2**24
"""Of tokenizer_config.json and the like: some list ten thousands of added tokens."""
MAX_TEMPLATES = 16

TOKENIZER = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TEMPLATE = "chat_template.jinja"
TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """What a folder holds, parsed; what is not there is empty, or None.

    Attributes:
        tokenizer: bytes of tokenizer.json.
        vocabulary: of vocab.json: token -> id.
        merges: the lines of merges.txt.
        sentencepiece: name of the file of a SentencePiece model.
        tokenizer_config: of tokenizer_config.json.
        special_tokens: of special_tokens_map.json.
        added_tokens: of added_tokens.json: token -> id.
        generation_config: of generation_config.json.
        templates: chat templates in files of their own: name -> source.
        folder: where they are; None for what was made in memory.
    """

    tokenizer: bytes | None = None
    vocabulary: Mapping[str, Any] | None = None
    merges: tuple[str, ...] | None = None
    sentencepiece: str | None = None
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: Mapping[str, Any] = field(default_factory=dict)
    added_tokens: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


def read_text_files(folder: Path) -> TextFiles:
    """Read what a folder says about text.

    Raises:
        CheckpointError: a file that is too large, or not what its name says.
    """

    def data(name: str, limit: int) -> bytes | None:
        path = folder / name
        return read_file(path, limit=limit, error=CheckpointError) if path_exists(path) else None

    def config(name: str) -> dict[str, Any]:
        found = data(name, MAX_CONFIG_BYTES)
        return {} if found is None else parse_json(found, name)

    vocabulary, merges = data(VOCABULARY, MAX_TOKENIZER_BYTES), data(MERGES, MAX_TOKENIZER_BYTES)
    return TextFiles(
        tokenizer=data(TOKENIZER, MAX_TOKENIZER_BYTES),
        vocabulary=None if vocabulary is None else parse_json(vocabulary, VOCABULARY),
        merges=None if merges is None else tuple(_text(merges, MERGES).split("\n")),
        sentencepiece=next((name for name in SENTENCEPIECE if path_exists(folder / name)), None),
        tokenizer_config=config("tokenizer_config.json"),
        special_tokens=config("special_tokens_map.json"),
        added_tokens=config("added_tokens.json"),
        generation_config=config("generation_config.json"),
        templates=_templates(folder),
        folder=folder,
    )


def _templates(folder: Path) -> dict[str, str]:
    found = [("default", folder / TEMPLATE)] if path_exists(folder / TEMPLATE) else []
    if is_folder(folder / TEMPLATES):
        others = sorted((folder / TEMPLATES).glob("*.jinja"))
        if len(others) > MAX_TEMPLATES:
            raise CheckpointError(
                f"{TEMPLATES} holds {len(others)} templates", hint=f"at most {MAX_TEMPLATES} are read"
            )
        found += [(path.name.removesuffix(".jinja"), path) for path in others]
    templates = {
        name: _text(read_file(path, limit=MAX_TEMPLATE_BYTES, error=CheckpointError), path.name) for name, path in found
    }
    legacy = folder / "chat_template.json"
    if not templates and path_exists(legacy):
        value = parse_json(read_file(legacy, limit=MAX_CONFIG_BYTES, error=CheckpointError), legacy.name)
        source = value.get("chat_template")
        if not isinstance(source, str):
            raise CheckpointError("chat_template.json has no 'chat_template'", hint="get the file again")
        templates = {"default": source}
    return templates


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        CheckpointError: something else.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text)
        refuse_half_characters(text, value)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{name} is not JSON: {err}", hint="the file is damaged: get it again") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} holds a {type(value).__name__}, expected an object", hint="get the file again")
    return value


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise CheckpointError(f"{name} is not UTF-8: {err}", hint="the file is damaged: get it again") from err
