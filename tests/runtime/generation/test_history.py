"""The tokens of a row, as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import InputError
from aigc_runtime.generation.history import TokenHistory


def test_it_grows_and_knows_its_prompt() -> None:
    history = TokenHistory(np.array([3, 4], dtype=np.int32))
    for token in range(100):
        history.append(token)
    assert (len(history), history.prompt_length, str(history.ids.dtype)) == (102, 2, "int64")
    assert history.ids.tolist() == [3, 4, *range(100)]
    assert history.generated.tolist() == list(range(100))
    history.check(0, 100)
    with pytest.raises(InputError, match="the history of row 2 holds token 99"):
        history.check(2, 99)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([-1], "from -1"), ([0.5], "holds float64"), ([True], "holds bool"), ([[1, 2]], r"holds int64 \[1, 2\]")],
)
def test_what_is_no_history(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenHistory(np.array(ids))
