"""What reads texts for a pipeline, so that recorded token ids can be held against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import Tokenizer

__all__ = ["PromptReader", "TextReaders"]

PromptReader = Callable[[Sequence[str]], Array]
"""Prompts -> int64 [N, T], cut and filled up as an engine takes them."""


@dataclass(frozen=True, kw_only=True)
class TextReaders:
    """What a pipeline reads texts by.

    Attributes:
        tokenizer: of texts that are continued; None for a pipeline that continues none.
        of_file: whether that tokenizer is in a file of the bundle, which has to be proven.
        template: of chats.
        prompts: role of a text encoder -> what makes its rows of ids.
    """

    tokenizer: Tokenizer | None = None
    of_file: bool = False
    template: ChatTemplate | None = None
    prompts: Mapping[str, PromptReader] = field(default_factory=dict)
