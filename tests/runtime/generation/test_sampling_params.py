"""Options of sampling: their values, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.printable import shown

WARM = SamplingParams(temperature=1.0)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("temperature", -0.1, "must be 0 or a number from 1e-30 to 1e+30"),
        ("temperature", 1e-31, "must be 0 or a number from"),
        ("temperature", float("nan"), "must be 0 or a number from"),
        ("temperature", float("inf"), "must be 0 or a number from"),
        ("temperature", 10**400, "must be 0 or a number from"),
        ("temperature", False, "must be 0 or a number from"),
        ("temperature", "hot", "must be 0 or a number from"),
        ("temperature", None, "must be 0 or a number from"),
        ("top_k", -1, "must be an integer of at least 0"),
        ("top_k", 2.0, "must be an integer of at least 0"),
        ("top_k", True, "must be an integer of at least 0"),
        ("top_p", 0.0, "must be a number from 1e-30 to 1"),
        ("top_p", 1.01, "must be a number from 1e-30 to 1"),
        ("top_p", True, "must be a number from 1e-30 to 1"),
        ("top_p", float("nan"), "must be a number from 1e-30 to 1"),
        ("repetition_penalty", 0, "must be a number from 1e-30 to 1e+30"),
        ("repetition_penalty", -1.0, "must be a number from"),
        ("repetition_penalty", float("inf"), "must be a number from"),
        ("repetition_penalty", True, "must be a number from"),
    ],
)
def test_bad_parameters(field: str, value: Any, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.message == f"{field} is {shown(value)}"
    assert caught.value.hint.startswith(hint)


def test_parameters_are_frozen_and_named() -> None:
    with pytest.raises(AttributeError):
        WARM.temperature = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        SamplingParams(1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_p": 1.5}, "min_p is 1.5\nmust be a number from 0 to 1"),
        ({"typical_p": 0}, "typical_p is 0\nmust be a number from 1e-30 to 1"),
        ({"frequency_penalty": "x"}, "frequency_penalty is 'x'\nmust be a number"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf\nmust be a number"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1\nmust be an integer of at least 0 (0 is off)"),
        ({"min_new_tokens": 1.0}, "min_new_tokens is 1.0\nmust be an integer of at least 0"),
        ({"top_k": 2**40}, f"top_k is {2**40}\nmust be at most 2,147,483,647"),
        ({"num_beams": 0}, "num_beams is 0\nmust be an integer of at least 1 (1 is no beam search)"),
        ({"num_beams": 10_000}, "num_beams is 10000\nmust be at most 256"),
        ({"length_penalty": float("nan")}, "length_penalty is nan\nmust be a number from -100 to 100"),
        ({"early_stopping": "always"}, "early_stopping is 'always'\nmust be True, False or 'never'"),
        ({"suppress_tokens": 5}, "suppress_tokens is 5\nmust be a list of token ids"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is [-1]\nmust be a list of token ids: integers of at least 0"),
        ({"begin_suppress_tokens": "12"}, "begin_suppress_tokens is '12'\nmust be a list of token ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids is [[]]\nmust be a list of lists of token ids, none of them empty"),
        ({"bad_words_ids": [5]}, "bad_words_ids is 5\nmust be a list of token ids"),
        ({"sequence_bias": {5: 1.0}}, "sequence_bias is {5: 1.0}\nmust be a list of pairs"),
        ({"sequence_bias": [[[5], "a"]]}, "sequence_bias is 'a'\nmust be a number"),
        ({"sequence_bias": [[[5], 1.0], [[5], 2.0]]}, "must name each sequence once"),
    ],
)
def test_bad_values_of_the_other_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SamplingParams(**options)
    assert message in str(caught.value)


def test_an_override_changes_what_it_names() -> None:
    base = SamplingParams(temperature=0.6, top_p=0.9)
    assert base.override(top_p=1.0, top_k=4) == SamplingParams(temperature=0.6, top_k=4)
    assert base.override() == base
    with pytest.raises(UnknownNameError, match="unknown sampling option 'temperatur_'") as caught:
        base.override(temperatur_=1.0)
    assert "Did you mean 'temperature'?" in str(caught.value)
    with pytest.raises(InputError, match="top_p is 2"):
        base.override(top_p=2)


def test_ids_beyond_the_vocabulary() -> None:
    tried: list[dict[str, Any]] = [
        {"suppress_tokens": [300]},
        {"begin_suppress_tokens": [300]},
        {"bad_words_ids": [[1, 300]]},
        {"sequence_bias": [[[300, 1], 1.0]]},
    ]
    for options in tried:
        params = SamplingParams(**options)
        params.check_vocabulary(301)
        with pytest.raises(InputError, match=r"holds token 300\nthe model's tokens are 0 to 299"):
            params.check_vocabulary(300)


def test_every_option_goes_through_json() -> None:
    params = SamplingParams(
        sequence_bias=(((1, 2), -1.5),), bad_words_ids=((3,),), suppress_tokens=(4,), early_stopping="never", min_p=0.1
    )
    assert from_json(SamplingParams, to_json(params)) == params
    assert from_json(SamplingParams, to_json(WARM)) == WARM
