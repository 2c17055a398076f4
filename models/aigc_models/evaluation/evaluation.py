"""What a model is evaluated on, and what that is called in every table: never other data under one name."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from aigc_models.data.documents import Document, Render, plain_documents, read_documents
from aigc_models.data.kept_data import KeptData, data_name
from aigc_models.data.text_data import SEPARATOR, standard_library_text
from aigc_models.evaluation.known_pictures import DIGITS, known_pictures
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, ConfigError, InputError
from aigc_runtime.pipelines.settings import TextSettings

__all__ = [
    "DIGITS",
    "DRAWN_IDS",
    "NO_TOKENIZER",
    "STANDARD_LIBRARY",
    "Evaluation",
    "check_form",
    "held_out_part",
    "image_evaluation",
    "public_documents",
    "random_documents",
    "text_evaluation",
]

STANDARD_LIBRARY = f"held-out files of Python {platform.python_version()}'s standard library"
DRAWN_IDS = "drawn token ids"
NO_TOKENIZER = "none"
"""The kind of tokenizer of a model that takes and gives token ids."""
RANDOM_ROWS, RANDOM_LENGTH = 256, 257
MIN_TEXT_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model is evaluated on.

    Attributes:
        data: its name, as tables and manifests show it; empty for images of models that have no metric here.
        has_task_metric: whether the model's own metric can be measured on it.
        documents: of the text, for a language model: each is a file, a part of one, or a line.
        examples: inputs by name, for a model that is evaluated on such as these.
        sha256: of the text; empty for images.
    """

    data: str
    has_task_metric: bool
    documents: tuple[Document, ...] = field(default=(), repr=False)
    examples: Mapping[str, Array] = field(default_factory=dict, repr=False)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The content of every document."""
        return tuple(document.content for document in self.documents)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text, a newline between two documents; empty where there is none."""
        return hashlib.sha256(SEPARATOR.join(self.pieces)).hexdigest() if self.documents else ""


def text_evaluation(
    settings: TextSettings,
    *,
    kept: KeptData | None = None,
    held_out: Sequence[bytes] = (),
    eval_data: Path | str | None = None,
    render: Render | None = None,
) -> Evaluation:
    """Choose the text for a language model: what the user names, else what its checkpoint keeps, else the built-in one.

    Args:
        settings: of the model's pipeline.
        kept: what the checkpoint says of its data; None where it says nothing.
        held_out: the text that it keeps, in pieces.
        eval_data: the user's text, a file or a folder.
        render: of the model's chat template; None where it has none.

    Raises:
        InputError: it cannot be read, is too short, or is text for a model without a tokenizer.
    """
    has_text = settings.tokenizer.kind != NO_TOKENIZER
    if eval_data is not None:
        documents = read_documents(eval_data, render=render)
        check_form(documents, settings, eval_data)
        size = sum(len(document.content) for document in documents)
        if size < MIN_TEXT_BYTES:
            raise InputError(
                f"{str(eval_data)!r} holds {size:,} bytes to evaluate on",
                hint=f"need at least {MIN_TEXT_BYTES}: give more text",
            )
        return Evaluation(data=f"{data_name(eval_data)!r}", has_task_metric=has_text, documents=documents)
    if not has_text:
        return Evaluation(data=DRAWN_IDS, has_task_metric=False, documents=public_documents(settings))
    if kept is not None and held_out:
        return Evaluation(data=held_out_part(kept.name), has_task_metric=has_text, documents=plain_documents(held_out))
    return Evaluation(data=STANDARD_LIBRARY, has_task_metric=has_text, documents=public_documents(settings))


def public_documents(settings: TextSettings) -> tuple[Document, ...]:
    """Give text that everyone has, which no model here was trained on; drawn tokens, for a model that reads no text."""
    if settings.tokenizer.kind == NO_TOKENIZER:
        return random_documents(settings, seed=0)
    return plain_documents(standard_library_text().held_out_pieces)


def check_form(
    documents: Sequence[Document], settings: TextSettings, path: Path | str, *, error: type[AigcError] = InputError
) -> None:
    """Check that documents are text for a model that reads text, and tokens for one that does not.

    Raises:
        AigcError: of type `error`: they are not, or hold a token that the model does not know.
    """
    has_text = settings.tokenizer.kind != NO_TOKENIZER
    if has_text and any(document.ids for document in documents):
        raise error(f"{str(path)!r} holds input_ids, and this model reads text", hint="give text, or chats")
    if not has_text and not all(document.ids for document in documents):
        raise error(
            f"{str(path)!r} holds text, and this model has no tokenizer",
            hint='give lines {"input_ids": [...]} in jsonl',
        )
    largest = max((max(document.ids) for document in documents if document.ids), default=0)
    if largest >= settings.vocab_size:
        raise error(
            f"{str(path)!r} holds the token id {largest}", hint=f"this model knows 0 to {settings.vocab_size - 1}"
        )


def random_documents(settings: TextSettings, *, seed: int) -> tuple[Document, ...]:
    """Draw tokens for a model of which nothing is known but how many it has."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, settings.vocab_size, size=(RANDOM_ROWS, RANDOM_LENGTH))
    return tuple(Document(ids=tuple(row)) for row in ids.tolist())


def image_evaluation(
    sample_shape: tuple[int, int, int],
    *,
    kept: KeptData | None = None,
    class_names: object = None,
    eval_data: Path | str | None = None,
) -> Evaluation:
    """Choose what images are evaluated on: those that a shipped classifier knows, else PyTorch's images alone.

    Args:
        sample_shape: (C, H, W) of the images.
        kept: what the checkpoint says of its data; None where it says nothing.
        class_names: of config.json.
        eval_data: what the user names, which no model of images takes.

    Raises:
        ConfigError: data was named.
    """
    if eval_data is not None:
        raise ConfigError(
            f"{str(eval_data)!r} cannot evaluate a model of images, which has no metric on own data here",
            hint="leave --eval-data out: its images are compared with PyTorch's",
        )
    # Trained on the user's own pictures, ten classes called "0" to "9" are not scikit-learn's digits.
    data = known_pictures(sample_shape, class_names) if kept is None else ""
    return Evaluation(data=data, has_task_metric=bool(data))


def held_out_part(name: str) -> str:
    """Name the text that training held out."""
    return f"held-out part of {name!r}"
