"""The rows of a text generation: prompts as token ids, and what is known of each while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.generation.tokenizers import Tokenizer
from aigc_runtime.pipelines.prompts import Prompt, prompt_ids

__all__ = ["FinishReason", "Row", "make_rows"]

FinishReason = Literal["length", "context", "stop", "eos", "cancelled"]


class Row:
    """What is known of one row while it is generated.

    Args:
        prompt: its token ids [n].
        generator: of its random draws.

    Attributes:
        history: its tokens.
        finish_reason: why it ended; None while it goes on.
    """

    def __init__(self, prompt: Array, generator: TorchGenerator) -> None:
        self.generator = generator
        self.history = TokenHistory(prompt)
        self.finish_reason: FinishReason | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.history.prompt_length

    @property
    def tokens(self) -> Array:
        """The tokens that were generated: int64 [n]."""
        return self.history.generated


def make_rows(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, *, vocab_size: int, context_length: int, seed: int
) -> list[Row]:
    """Make the rows of prompts; row i draws from seed + i.

    Raises:
        InputError: no prompt, an empty one, unknown ids, a prompt that fills the context, or a bad seed.
    """
    if not prompts:
        raise InputError("no prompt was given", hint="give at least one")
    base = check_seed(seed)
    rows = []
    for i, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt_ids(i, prompt, vocab_size)
        if len(ids) == 0:
            raise InputError(f"prompt {i} is empty", hint="give at least one character to continue from")
        if len(ids) >= context_length:
            raise InputError(
                f"prompt {i} has {len(ids)} tokens, the context holds {context_length}",
                hint=f"shorten it to at most {context_length - 1} tokens, so that one can be generated",
            )
        rows.append(Row(ids, TorchGenerator((base + i) % 2**64)))
    return rows
