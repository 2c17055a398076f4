"""How the next token is chosen: every option, under the name that transformers' GenerationConfig has for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal

from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.io.printable import shown

__all__ = ["MAX_BEAMS", "SamplingParams"]

_SMALLEST, _LARGEST = 1e-30, 1e30
_MAX_ID = 2**31 - 1

MAX_BEAMS = 256
"""Beams of one prompt: each is a row of the engine's batch."""

Sequences = tuple[tuple[int, ...], ...]

_NUMBERS: Mapping[str, tuple[float, float, float | None]] = {
    "temperature": (_SMALLEST, _LARGEST, 0.0),
    "top_p": (_SMALLEST, 1.0, None),
    "min_p": (0.0, 1.0, None),
    "typical_p": (_SMALLEST, 1.0, None),
    "repetition_penalty": (_SMALLEST, _LARGEST, None),
    "frequency_penalty": (-_LARGEST, _LARGEST, None),
    "presence_penalty": (-_LARGEST, _LARGEST, None),
    "length_penalty": (-100.0, 100.0, None),
}
"""Field -> its least and largest value, and one more that it may have."""

_COUNTS: Mapping[str, tuple[int, int, str]] = {
    "top_k": (0, _MAX_ID, "0 keeps all"),
    "no_repeat_ngram_size": (0, _MAX_ID, "0 is off"),
    "min_new_tokens": (0, _MAX_ID, "0 is off"),
    "num_beams": (1, MAX_BEAMS, "1 is no beam search"),
}
"""Field -> its least and largest value, and what the least means."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. All defaults together are greedy choice over the model's own logits.

    The options from `temperature` to `typical_p` say which tokens a draw may give; those from `sequence_bias` to
    `begin_suppress_tokens` change logits, whether the choice is greedy or drawn; the last belong to beam search.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token (greedy), of equals the lowest id.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020, eq. 2); 1 keeps all.
        min_p: keep tokens at least that share as likely as the most likely one (Nguyen et al. 2024); 0 keeps all.
        typical_p: keep the most typical tokens whose probability reaches p (Meister et al. 2022); 1 keeps all.
        sequence_bias: pairs of token ids and a number; the number is added to the logit of the last id where the text
            ends with those before it. One id alone is what others call a logit bias.
        repetition_penalty: divide positive and multiply negative logits of tokens that already occurred, in the prompt
            or after it (Keskar et al. 2019, section 4.1); 1 is off.
        frequency_penalty: subtracted from a logit for each time that its token was generated; 0 is off. That of OpenAI.
        presence_penalty: subtracted once from the logit of every token that was generated; 0 is off. That of OpenAI.
        no_repeat_ngram_size: no sequence of so many tokens occurs twice; 0 is off.
        bad_words_ids: sequences of token ids that are not generated.
        min_new_tokens: no end-of-text token before so many tokens were generated.
        suppress_tokens: ids that are never generated.
        begin_suppress_tokens: ids that are not generated first.
        num_beams: beams of a beam search; 1 is none.
        length_penalty: the sum of a beam's log probabilities is divided by its length to this power.
        early_stopping: a beam search ends: True: once it has `num_beams` finished texts; False: once no open one is
            likely to be better; "never": once none can be.

    Raises:
        InputError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {}
        for name, (low, high, also) in _NUMBERS.items():
            checked[name] = _number(name, getattr(self, name), low=low, high=high, also=also)
        for name, bounds in _COUNTS.items():
            checked[name] = _count(name, getattr(self, name), *bounds)
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            checked[name] = _token_ids(name, getattr(self, name))
        checked["bad_words_ids"] = _sequences("bad_words_ids", self.bad_words_ids)
        checked["sequence_bias"] = _biases(self.sequence_bias)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise InputError(f"early_stopping is {shown(self.early_stopping)}", hint="must be True, False or 'never'")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0.0

    @property
    def changes_logits(self) -> bool:
        """Whether an option that changes logits is on."""
        return bool(
            self.sequence_bias
            or self.repetition_penalty != 1.0
            or self.frequency_penalty
            or self.presence_penalty
            or self.no_repeat_ngram_size
            or self.bad_words_ids
            or self.min_new_tokens
            or self.suppress_tokens
            or self.begin_suppress_tokens
        )

    def override(self, **values: Any) -> SamplingParams:
        """The same with other values of some options.

        Raises:
            UnknownNameError: an option that there is not.
            InputError: a value outside its range.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise UnknownNameError("sampling option", name, known)
        return replace(self, **values)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse ids that a model does not have.

        Raises:
            InputError: names the option and the id.
        """
        for name, ids in (
            ("sequence_bias", [i for sequence, _ in self.sequence_bias for i in sequence]),
            ("bad_words_ids", [i for sequence in self.bad_words_ids for i in sequence]),
            ("suppress_tokens", self.suppress_tokens),
            ("begin_suppress_tokens", self.begin_suppress_tokens),
        ):
            if ids and max(ids) >= vocab_size:
                raise InputError(
                    f"{name} holds token {max(ids)}", hint=f"the model's tokens are 0 to {vocab_size - 1:,}"
                )


def _number(name: str, value: object, *, low: float, high: float, also: float | None) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    # NaN compares as false.
    if not number or not (value == also or low <= value <= high):  # type: ignore[operator]
        either = "" if also is None else f"{also:g} or "
        raise InputError(f"{name} is {shown(value)}", hint=f"must be {either}a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def _count(name: str, value: object, low: int, high: int, meaning: str) -> int:
    count = as_integer(value)
    if count is None or count < low:
        raise InputError(f"{name} is {shown(value)}", hint=f"must be an integer of at least {low} ({meaning})")
    if count > high:
        raise InputError(f"{name} is {shown(value)}", hint=f"must be at most {high:,}")
    return count  # arithmetic in a type of eight bits would wrap


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        ids = [as_integer(i) for i in value]
        found = tuple(i for i in ids if i is not None and 0 <= i <= _MAX_ID)
        if len(found) == len(ids):
            return found
    raise InputError(f"{name} is {shown(value)}", hint="must be a list of token ids: integers of at least 0")


def _sequences(name: str, value: object) -> Sequences:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        found = [_token_ids(name, sequence) for sequence in value]
        if all(found):
            return tuple(found)
    raise InputError(f"{name} is {shown(value)}", hint="must be a list of lists of token ids, none of them empty")


def _biases(value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]
    found = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError(
                f"sequence_bias is {shown(value)}", hint="must be a list of pairs: a list of token ids, and a number"
            )
        ((ids,), number) = _sequences("sequence_bias", [pair[0]]), pair[1]
        found.append((ids, _number("sequence_bias", number, low=-_LARGEST, high=_LARGEST, also=None)))
    if len({ids for ids, _ in found}) < len(found):
        raise InputError(f"sequence_bias is {shown(value)}", hint="must name each sequence once")
    return tuple(found)
