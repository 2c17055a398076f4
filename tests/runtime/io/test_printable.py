"""Values of callers in messages: escaped, shortened, and never an error of their own."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.cli.main import run
from aigc_runtime.errors import InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.io.png import image_grid
from aigc_runtime.io.printable import printable, shortened, shown
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.text import TextPipeline

HUGE = 10**5000
"""Python refuses to write it: `str(HUGE)` is a ValueError."""


@pytest.mark.parametrize("digits", [301, 302, 4300, 4301, 5000])
def test_an_integer_is_told_by_its_digits(digits: int) -> None:
    for value in (10 ** (digits - 1), 10**digits - 1, -(10**digits) + 1):
        assert shown(value) == f"an integer of {digits:,} digits"


def test_what_is_short_stays_as_it_is() -> None:
    assert shown("٣") == "'٣'"
    assert shown(10**299) == str(10**299)
    name = "/".join(["d" * 255] * 8)  # the longest names of files
    assert shortened(f"cannot read {name}") == f"cannot read {name}"
    assert printable("a\x1bb") == "a\\x1bb"


def test_what_is_long_is_cut() -> None:
    assert shortened("x " + "7" * 5000) == "x 77777777777777777777...7777777777 (5,000 characters)"
    assert len(shown([1.5] * 10**6)) < 500
    assert shown([HUGE]) == "a list of numbers with too many digits"


def test_numbers_of_5000_digits_are_refused_in_python(toy_bundles: Path) -> None:
    with open_pipeline(toy_bundles / "toy_gan") as gan, open_pipeline(toy_bundles / "toy_lm_growing") as lm:
        assert isinstance(gan, GanPipeline)
        assert isinstance(lm, TextPipeline)
        calls: list[Callable[[], Any]] = [
            lambda: gan.generate([0], seed=HUGE),
            lambda: gan.generate([0], truncation=HUGE),
            lambda: gan.generate([HUGE]),
            lambda: lm.generate("a", seed=-HUGE),
            lambda: SamplingParams(temperature=HUGE),
            lambda: image_grid(np.zeros((1, 1, 2, 2), np.float32), scale=HUGE),
            lambda: check_seed(HUGE),
        ]
        for call in calls:
            with pytest.raises(InputError) as caught:
                call()
            assert len(str(caught.value)) < 300


def test_prompts_and_stops_that_are_no_lists(toy_bundles: Path) -> None:
    with open_pipeline(toy_bundles / "toy_lm_growing") as lm:
        assert isinstance(lm, TextPipeline)
        for prompts in (None, 3, 1.5):
            with pytest.raises(InputError, match=r"prompts is .*\nmust be a string, or a list of strings"):
                lm.generate(prompts)  # type: ignore[arg-type]
        for stop in (3, {"a"}, "a"):  # None takes those of the bundle
            with pytest.raises(InputError, match=r"stop is .*\nmust be a list"):
                lm.generate("a", stop=stop)  # type: ignore[arg-type]


def test_sampling_parameters_are_floats_whatever_number_they_came_as() -> None:
    given: dict[str, Any] = {"temperature": Fraction(1, 2), "top_p": np.float32(0.5), "repetition_penalty": 2}
    params = SamplingParams(**given)
    assert [type(v) for v in (params.temperature, params.top_p, params.repetition_penalty)] == [float] * 3
    assert params.temperature == 0.5


@pytest.mark.parametrize("option", ["--seed", "--threads", "--count", "--scale", "--truncation"])
def test_numbers_of_5000_digits_on_the_command_line(
    option: str, toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(toy_bundles / "toy_gan"), "-o", str(tmp_path / "a.png"), option, "7" * 5000]
    assert run(arguments) == 2
    assert len(capsys.readouterr().err) < 400


def test_as_many_runs_as_nobody_waits_for(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(toy_bundles / "toy_gan"), "--runs", "1000000001"]) == 2
    assert "runs is 1000000001\n  must be an integer from 1 to 1,000,000" in capsys.readouterr().err
