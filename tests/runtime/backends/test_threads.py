"""The number of threads is checked once, whatever the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.threads import MAX_THREADS, available_threads, check_threads
from aigc_runtime.errors import InputError


def test_threads_are_whole_numbers_within_reason() -> None:
    assert check_threads(None) is None
    assert check_threads(np.int64(3)) == 3  # type: ignore[arg-type]
    assert 1 <= available_threads() <= MAX_THREADS


@pytest.mark.parametrize("count", [0, -1, MAX_THREADS + 1, 1.5, "2", True])
def test_other_numbers_are_refused(count: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        check_threads(count)
