"""What SentencePiece itself makes of a text: the judge of a tokenizer.json that was converted from its model."""

from __future__ import annotations

import importlib
from pathlib import Path

from aigc_models.text_assets.samples import SENTENCES
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer
from aigc_runtime.io.printable import shown

__all__ = ["check_against_sentencepiece"]

_SHOWN = 8
"""Tokens in a message."""


def check_against_sentencepiece(data: bytes, model: Path) -> None:
    """Check that a converted tokenizer cuts sentences as the model does that it was converted from.

    transformers converts a model by the class that it takes a folder's tokenizer for, whatever the model says of its
    algorithm and of the space in front of a text (5.23: wrong for Mistral's and Phi-3's folders). Sentences have single
    spaces and no special tokens: with others some classes differ from SentencePiece on purpose.

    Args:
        data: content of the tokenizer.json.
        model: the file of SentencePiece.

    Raises:
        CheckpointError: the file is damaged.
        ConfigError: a sentence is cut otherwise, or there is no SentencePiece to ask.
    """
    try:
        library = importlib.import_module("sentencepiece")
    except ImportError as err:
        raise ConfigError(
            f"{model.name} was converted, and cannot be compared: SentencePiece is not installed",
            hint="pip install sentencepiece",
        ) from err
    try:
        judge = library.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError, ValueError) as err:
        raise CheckpointError(f"{model.name} cannot be read: {err}", hint="get the file again") from err
    tokenizer = HuggingFaceTokenizer(data)
    for sentence in SENTENCES:
        expected = [int(token) for token in judge.encode(sentence)]
        try:
            ids = tokenizer.encode(sentence, add_special_tokens=False).tolist()
        except AigcError:
            ids = []
        if ids != expected:
            raise ConfigError(
                f"{model.name} is not converted as SentencePiece reads it: {shown(sentence)} begins with the tokens "
                f"{_first(ids)}, and by SentencePiece with {_first(expected)}",
                hint="get the model's own tokenizer.json: transformers does not make it of this folder",
            )


def _first(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:_SHOWN])) or "none"
