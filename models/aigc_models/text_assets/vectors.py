"""Record what a tokenizer and a chat template give, by transformers, and hold our own reading against it."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np

from aigc_models.program import Vectors
from aigc_models.text_assets.assets import TextAssets
from aigc_models.text_assets.by_transformers import (
    clock_of_transformers,
    open_data_with_transformers,
    open_with_transformers,
    quiet,
    tokenizers_version,
    transformers_version,
    why_not_compared,
)
from aigc_models.text_assets.samples import CHATS, sample_texts
from aigc_runtime.errors import ParityError
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer, Tokenizer, TokenizerRequest, make_tokenizer
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.proof.text_vectors import (
    FORMAT,
    VERSION,
    ChatVector,
    TextVector,
    TextVectors,
    replay_chat,
    replay_text,
)

__all__ = ["TextDiffersError", "dumped", "make_vectors", "needs_vectors"]

NOW = datetime.datetime(2024, 2, 29, 12, 30)
"""What templates that ask for the time are told."""
_TRIED_TOKENS = 8
"""Added tokens that are tried within texts."""


class TextDiffersError(ParityError):
    """transformers reads a tokenizer or a chat template otherwise. Nothing is published."""


def needs_vectors(text: TextAssets) -> bool:
    """Whether there is anything to record: a tokenizer of a file, or a chat template."""
    return text.tokenizer.file is not None or text.chat is not None


def make_vectors(text: TextAssets, vocab_size: int) -> Vectors:
    """Record token ids of texts and prompts of chats.

    transformers records them where it is installed, from the folder that the model came from, or else from the files of
    the bundle; without it our own reading does, by the `tokenizers` library.

    Args:
        text: of the model.
        vocab_size: of the model.

    Raises:
        TextDiffersError: our own reading gives other ids, texts or prompts; names the first.
    """
    tokenizer = make_tokenizer(
        TokenizerRequest(
            info=text.tokenizer,
            vocab_size=vocab_size,
            assets=text.files,
            bos=text.bos_token_id,
            others=(*text.eos_token_ids, text.pad_token_id),
        )
    )
    template = None if text.chat is None else ChatTemplate.of(text.chat, text.files)
    theirs, notes = _theirs(text) if text.tokenizer.file is not None else (None, ())
    made_by = f"tokenizers {tokenizers_version()}" if theirs is None else f"transformers {transformers_version()}"
    reader = _Ours(tokenizer, template) if theirs is None else theirs
    vectors = _recorded(made_by, reader, sample_texts(_added(tokenizer)), has_chat=template is not None)
    _compare(tokenizer, template, vectors)
    return Vectors(data=dumped(vectors), made_by=made_by, notes=notes)


class _Ours:
    """Records with our own reading."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer, self._template = tokenizer, template

    def encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).tolist()
        return ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(np.array(ids, dtype=np.int64))

    def render(self, chat: dict[str, Any]) -> str:
        assert self._template is not None
        return self._template.render(**chat, now=NOW)


class _Theirs:
    """Records with transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, special: bool) -> list[int]:
        with quiet():
            return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=special)]

    def decode(self, ids: list[int]) -> str:
        with quiet():
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def render(self, chat: dict[str, Any]) -> str:
        rest = {name: value for name, value in chat.items() if name != "messages"}
        with quiet(), clock_of_transformers(NOW):
            return str(self._tokenizer.apply_chat_template(chat["messages"], tokenize=False, **rest))


def _theirs(text: TextAssets) -> tuple[_Theirs | None, tuple[str, ...]]:
    """Transformers' reading, and what to know about it; None where it is not installed."""
    if (why_not := why_not_compared(transformers_version())) is not None:
        return None, (why_not,)
    notes: tuple[str, ...] = ()
    tokenizer = open_with_transformers(text.folder)
    if tokenizer is None:
        if text.folder is not None:
            notes = ("transformers does not read the folder's tokenizer: token ids are compared over the bundle's own",)
        named = {} if text.chat is None else text.chat.special_tokens
        tokenizer = open_data_with_transformers(
            text.files[text.tokenizer.file or ""], clean_up_spaces=text.tokenizer.clean_up_spaces, special_tokens=named
        )
    if tokenizer.chat_template is None and text.chat is not None:
        tokenizer.chat_template = {name: text.files[file].decode() for name, file in text.chat.templates.items()}
    return _Theirs(tokenizer), notes


def _recorded(made_by: str, reader: _Ours | _Theirs, texts: list[str], *, has_chat: bool) -> TextVectors:
    vectors = []
    for text in texts:
        ids = reader.encode(text, special=True)
        bare, decoded = reader.encode(text, special=False), reader.decode(ids)
        vectors.append(TextVector(text=text, ids=tuple(ids), bare_ids=tuple(bare), decoded=decoded))
    chats = []
    for chat in CHATS if has_chat else ():
        for prompt in (True, False):
            chats.append(_recorded_chat(reader, {**chat, "add_generation_prompt": prompt}))
    return TextVectors(format=FORMAT, version=VERSION, made_by=made_by, texts=tuple(vectors), chats=tuple(chats))


def _recorded_chat(reader: _Ours | _Theirs, chat: dict[str, Any]) -> ChatVector:
    try:
        prompt = reader.render(chat)
    # What a template provokes depends on the template.
    except Exception as err:  # noqa: BLE001
        why = (str(err) or type(err).__name__).splitlines()[0][:200]
        return ChatVector(chat=chat, now=NOW.isoformat(), prompt=None, ids=(), refused=why)
    ids = tuple(reader.encode(prompt, special=False))
    return ChatVector(chat=chat, now=NOW.isoformat(), prompt=prompt, ids=ids, refused=None)


def _compare(tokenizer: Tokenizer, template: ChatTemplate | None, vectors: TextVectors) -> None:
    found = next((d for v in vectors.texts if (d := replay_text(tokenizer, v)) is not None), None)
    if found is None and template is not None:
        found = next((d for v in vectors.chats if (d := replay_chat(template, tokenizer, v)) is not None), None)
    if found is not None:
        raise TextDiffersError(
            f"the tokenizer is not read as {vectors.made_by} reads it: {found}",
            hint="report it with the model's tokenizer files; nothing was published",
        )


def _added(tokenizer: Tokenizer) -> list[str]:
    """Tokens beside the vocabulary: the first, and the last."""
    found = tokenizer.added_tokens if isinstance(tokenizer, HuggingFaceTokenizer) else ()
    return [*dict.fromkeys([*found[:_TRIED_TOKENS], *found[-2:]])]


def dumped(vectors: TextVectors) -> bytes:
    """The file of a bundle."""
    return (json.dumps(to_json(vectors), ensure_ascii=True, allow_nan=False, indent=0) + "\n").encode()
