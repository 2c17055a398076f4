"""Which number of threads is taken, and that each that may be is timed by engines that have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.opening import open_program
from aigc_runtime.proof import fastest_threads
from aigc_runtime.proof.fastest_threads import counts_to_try, fewest_fast, time_threads

from .. import toys


def test_numbers_that_are_tried() -> None:
    assert [counts_to_try(most) for most in (1, 2, 3, 8)] == [(1,), (2, 1), (3, 1), (8, 4, 2, 1)]


def test_the_fewest_of_those_that_are_as_fast() -> None:
    assert fewest_fast({2: 1.0, 1: 2.0}) == 2
    assert fewest_fast({2: 1.0, 1: 1.03}) == 1
    assert fewest_fast({2: 1.1, 1: 1.0}) == 1
    assert fewest_fast({}) is None


def test_each_number_has_engines_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def noted(bundle: Bundle, **options: Any) -> Any:
        opened.append((options["threads"], options["low_memory"]))
        return open_program(bundle, **options)

    monkeypatch.setattr(fastest_threads, "open_program", noted)
    monkeypatch.setattr(fastest_threads, "available_threads", lambda: 4)
    monkeypatch.setattr(fastest_threads, "SECONDS", 0.0)
    with Bundle.open(toys.write_toy_bundle(tmp_path, "toy_gan")) as bundle:
        seconds = time_threads(bundle, low_memory=True)
    assert opened == [(4, True), (2, True), (1, True)]
    assert list(seconds) == [4, 2, 1]
    assert all(taken > 0 for taken in seconds.values())
