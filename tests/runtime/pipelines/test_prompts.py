"""Prompts as texts and as token ids: what is one, what are several, and what is neither."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines import make_pipeline, prompts
from aigc_runtime.pipelines.prompts import as_ids, check_prompts, is_single, listed_prompts, prompt_ids

from .. import toys

ONE: list[Any] = ["text", "", [1, 2], (1,), range(3), np.array([1, 2]), np.array([], np.int64), [np.int32(4)]]
SEVERAL: list[Any] = [["a", "b"], [[1], "b"], [], (), [[1, 2], [3]], np.array([[1, 2]])]


@pytest.mark.parametrize("value", ONE)
def test_one_prompt(value: Any) -> None:
    assert is_single(value)
    assert len(listed_prompts(value)) == 1


@pytest.mark.parametrize("value", SEVERAL)
def test_several_prompts(value: Any) -> None:
    assert not is_single(value)
    assert len(listed_prompts(value)) == len(value)


@pytest.mark.parametrize("value", [np.array([1.0]), np.array([[1]]), [1.0], ["a"], {1}, None, [2**64], [True], b"ab"])
def test_what_is_no_ids(value: Any) -> None:
    assert as_ids(value) is None
    with pytest.raises(InputError, match=r"prompt 3 is .*\nprompts are strings, or lists of token ids: integers f"):
        prompt_ids(3, value, 256)


@pytest.mark.parametrize("value", [[256], [-1], np.array([3, 2**40]), [2**62]])
def test_ids_that_the_model_does_not_know(value: Any) -> None:
    with pytest.raises(InputError, match=r"prompt 0 has token ids from .* to .*\nthis model knows 0 to 255"):
        prompt_ids(0, value, 256)


def test_several_that_are_no_list() -> None:
    with pytest.raises(InputError, match="prompts is 3\nmust be a string, or a list of strings or of lists of token"):
        listed_prompts(3)


@pytest.mark.parametrize("value", ["a", [1, 2], ["a", [1, 2]], [[1]], []])
def test_prompts_of_a_request(value: Any) -> None:
    check_prompts(value)


@pytest.mark.parametrize("value", ["", [""], [[]], [1.5], [[1.5]], 3, None, {"a": 1}, [["a"]], [True]])
def test_prompts_that_a_request_cannot_have(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"request\.prompts is .*\nmust be a list of texts, or of lists of token ids"):
        check_prompts(value)


def test_ids_are_the_text_that_they_stand_for() -> None:
    with make_pipeline(toys.lm_session(), toys.TEXT) as pipeline:
        texts = pipeline.generate(["abc", "de"], max_new_tokens=5)
        ids = pipeline.generate([list(b"abc"), np.frombuffer(b"de", np.uint8)], max_new_tokens=5)
        assert [row.token_ids.tolist() for row in ids] == [row.token_ids.tolist() for row in texts]
        (one,) = pipeline.generate(list(b"abc"), max_new_tokens=5)
        assert one.text == texts[0].text == "".join(pipeline.stream(np.array(list(b"abc")), max_new_tokens=5))
        with pytest.raises(InputError, match="prompt 1 is empty"):
            pipeline.generate([[1], []])


def test_doctests() -> None:
    assert doctest.testmod(prompts).attempted
    assert not doctest.testmod(prompts).failed
