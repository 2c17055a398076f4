"""The simulated device is a module of its own beside the tests."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def only_what_these_tests_made_is_collected() -> Iterator[None]:
    """These tests collect garbage hundreds of times; all that other tests left behind would make it take minutes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
