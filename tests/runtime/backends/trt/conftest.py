"""Garbage is collected quickly here."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def only_what_these_tests_made_is_collected() -> Iterator[None]:
    """These tests collect garbage hundreds of times; all that other tests left behind would make it take minutes.

    It is set aside as it is: to collect it first takes seconds in every file.
    """
    gc.freeze()
    yield
    gc.unfreeze()
