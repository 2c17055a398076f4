"""What a model is evaluated on, and what that is called in every table: never other data under one name."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from aigc_models.data.kept_data import KeptData, data_name
from aigc_models.data.text_data import SEPARATOR, standard_library_text
from aigc_models.data.text_files import read_text_files
from aigc_models.evaluation.quality import DIGIT_NAMES, are_digits
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text import text_tokenizer

__all__ = [
    "DIGITS",
    "DRAWN_IDS",
    "STANDARD_LIBRARY",
    "Evaluation",
    "held_out_part",
    "image_evaluation",
    "text_evaluation",
    "text_tokens",
]

STANDARD_LIBRARY = f"held-out files of Python {platform.python_version()}'s standard library"
DRAWN_IDS = "drawn token ids"
DIGITS = "scikit-learn's digits"
MIN_TEXT_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model is evaluated on.

    Attributes:
        data: its name, as tables and manifests show it; empty for images of models that have no metric here.
        has_task_metric: whether the model's own metric can be measured on it.
        pieces: of the text, for a language model: each is part of one file.
        examples: inputs by name, for a model that is evaluated on such as these.
        sha256: of the text; empty for images.
    """

    data: str
    has_task_metric: bool
    pieces: tuple[bytes, ...] = field(default=(), repr=False)
    examples: Mapping[str, Array] = field(default_factory=dict, repr=False)

    @cached_property
    def text(self) -> Array:
        """All pieces as one text, [N] uint8."""
        return np.frombuffer(SEPARATOR.join(self.pieces), np.uint8)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text; empty where there is none."""
        return hashlib.sha256(self.text.tobytes()).hexdigest() if self.pieces else ""


def text_evaluation(
    settings: TextSettings,
    *,
    kept: KeptData | None = None,
    held_out: Sequence[bytes] = (),
    eval_data: Path | str | None = None,
) -> Evaluation:
    """Choose the text for a language model: what the user names, else what its checkpoint keeps, else the built-in one.

    Args:
        settings: of the model's pipeline.
        kept: what the checkpoint says of its data; None where it says nothing.
        held_out: the text that it keeps, in pieces.
        eval_data: the user's text, a file or a folder.

    Raises:
        InputError: it cannot be read, or is too short.
    """
    # Bits per byte are those of a model over bytes.
    has_metric = settings.tokenizer.kind == "bytes"
    if eval_data is not None:
        pieces = read_text_files(eval_data).texts
        if sum(map(len, pieces)) < MIN_TEXT_BYTES:
            raise InputError(
                f"{str(eval_data)!r} holds {sum(map(len, pieces)):,} bytes to evaluate on",
                hint=f"need at least {MIN_TEXT_BYTES}: give more text",
            )
        return Evaluation(data=f"{data_name(eval_data)!r}", has_task_metric=has_metric, pieces=pieces)
    if kept is not None and held_out:
        return Evaluation(data=held_out_part(kept.name), has_task_metric=has_metric, pieces=tuple(held_out))
    pieces = standard_library_text().held_out_pieces
    data = DRAWN_IDS if settings.tokenizer.kind == "none" else STANDARD_LIBRARY
    return Evaluation(data=data, has_task_metric=has_metric, pieces=pieces)


def image_evaluation(
    sample_shape: tuple[int, int, int],
    num_classes: int | None,
    *,
    kept: KeptData | None = None,
    class_names: object = None,
    eval_data: Path | str | None = None,
) -> Evaluation:
    """Choose what images are evaluated on: the built-in digits where they are these, else nothing but PyTorch's images.

    Args:
        sample_shape: (C, H, W) of the images.
        num_classes: of the model; None for one without.
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
    digits = kept is None and class_names == [*DIGIT_NAMES] and are_digits(sample_shape, num_classes)
    return Evaluation(data=DIGITS if digits else "", has_task_metric=digits)


def held_out_part(name: str) -> str:
    """Name the text that training held out."""
    return f"held-out part of {name!r}"


def text_tokens(settings: TextSettings, assets: Mapping[str, bytes] | None, text: Array) -> Array:
    """The ids of a text [N] uint8, [M] int64: for a model over bytes the bytes themselves, UTF-8 or not.

    A model without a tokenizer reads no text: its ids are drawn from its vocabulary, always the same.

    Args:
        settings: of the model's pipeline.
        assets: of its program.
        text: UTF-8 bytes.

    Raises:
        UnicodeDecodeError: text that is not UTF-8, for a tokenizer of a file.
    """
    if settings.tokenizer.kind == "none":
        return np.random.default_rng(0).integers(0, settings.vocab_size, len(text), dtype=np.int64)
    tokenizer = text_tokenizer(settings, assets)
    if settings.tokenizer.kind == "bytes":
        return np.concatenate([tokenizer.encode(""), text.astype(np.int64)])
    return tokenizer.encode(text.tobytes().decode("utf-8"))
