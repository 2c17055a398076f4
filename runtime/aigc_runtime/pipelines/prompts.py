"""Prompts of a language model: texts, or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.io.printable import shown

__all__ = ["Prompt", "as_ids", "check_prompts", "is_single", "listed_prompts", "prompt_ids"]

Prompt = str | Sequence[int] | Array
"""A text, or its token ids: integers [n]."""


def as_ids(prompt: object) -> Array | None:
    """Token ids as int64 [n]; None for what is none: another type, other numbers, more dimensions.

    >>> as_ids([3, 4])
    array([3, 4])
    >>> as_ids([[3], [4]]) is as_ids("text") is as_ids([True]) is None
    True
    """
    if isinstance(prompt, np.ndarray):
        whole = prompt.ndim == 1 and (prompt.dtype.kind in "iu" or not prompt.size)
        return prompt.astype(np.int64) if whole else None
    if not isinstance(prompt, (list, tuple, range)):
        return None
    ids = [as_integer(i) for i in prompt]
    if any(i is None or not -(2**63) <= i < 2**63 for i in ids):
        return None
    return np.array(ids, dtype=np.int64)


def is_single(prompts: object) -> TypeGuard[Prompt]:
    """Whether this is one prompt, and not several: a text, or ids. A list of nothing is several."""
    if isinstance(prompts, str):
        return True
    if isinstance(prompts, (list, tuple)):
        return bool(prompts) and as_integer(prompts[0]) is not None
    return isinstance(prompts, range) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1)


def listed_prompts(prompts: Any) -> list[Prompt]:
    """The prompts of a request, one or several.

    Raises:
        InputError: something else.
    """
    if is_single(prompts):
        return [prompts]
    try:
        return list(prompts)
    except TypeError as err:
        raise InputError(
            f"prompts is {shown(prompts)}", hint="must be a string, or a list of strings or of lists of token ids"
        ) from err


def prompt_ids(number: int, prompt: object, vocab_size: int) -> Array:
    """A prompt that is no text, as int64 [n].

    Args:
        number: of the prompt, for messages.
        prompt: token ids.
        vocab_size: of the model.

    Raises:
        InputError: no ids, or some that the model does not know.
    """
    ids = as_ids(prompt)
    if ids is None:
        raise InputError(
            f"prompt {number} is {shown(prompt)}",
            hint=f"prompts are strings, or lists of token ids: integers from 0 to {vocab_size - 1:,}",
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise InputError(
            f"prompt {number} has token ids from {ids.min()} to {ids.max()}",
            hint=f"this model knows 0 to {vocab_size - 1}",
        )
    return ids


def check_prompts(value: object) -> None:
    """Refuse prompts of a request that are neither a text, nor ids, nor a list of these.

    Raises:
        ConfigError: says what was found.
    """
    prompts = [value] if is_single(value) else value
    if not isinstance(prompts, list) or not all(_is_prompt(prompt) for prompt in prompts):
        raise ConfigError(
            f"request.prompts is {value!r:.200}",
            hint="must be a list of texts, or of lists of token ids, none of them empty",
        )


def _is_prompt(prompt: object) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    ids = as_ids(prompt)
    return ids is not None and len(ids) > 0
