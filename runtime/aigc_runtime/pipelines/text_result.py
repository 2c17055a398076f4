"""What generation of text gives for one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aigc_runtime.core.tensors import Array

__all__ = ["FinishReason", "TextResult", "TokenLogprobs"]

FinishReason = Literal["length", "context", "stop", "eos", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """Log probabilities that the model gave, before any option of sampling: the log softmax of its logits.

    Attributes:
        chosen: float64 [n], of each generated token.
        top_ids: int64 [n, k], the k most likely tokens at each place, the most likely first.
        top: float64 [n, k], of those.
    """

    chosen: Array
    top_ids: Array
    top: Array


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """One row's result.

    Attributes:
        text: generated text, without the prompt, and without the stop string it ended at.
        token_ids: int64 [n], every generated token, those of a stop string included.
        finish_reason: `length` (as many tokens as asked for), `context` (the model's context is full), `stop` (a stop
            string), `eos` (the end-of-text token) or `cancelled`.
        prompt_tokens: tokens of the prompt.
        time_to_first_token_s: seconds from the call to the row's first token; None where there is none.
        tokens_per_second: of the tokens after the first one; None where there are none.
        logprobs: of the tokens, where they were asked for.
        score: of a beam search: the sum of the log probabilities over the length to the power of `length_penalty`.
    """

    text: str
    token_ids: Array
    finish_reason: FinishReason
    prompt_tokens: int
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None
    logprobs: TokenLogprobs | None = None
    score: float | None = None
