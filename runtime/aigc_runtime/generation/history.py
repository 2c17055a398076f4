"""The tokens of one row so far: what options that look back read."""

from __future__ import annotations

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError

__all__ = ["TokenHistory"]


class TokenHistory:
    """The prompt of a row, and the tokens generated after it.

    Args:
        prompt: [n] integers of at least 0.

    Raises:
        InputError: something else.

    >>> history = TokenHistory(np.array([5, 6]))
    >>> history.append(7)
    >>> history.ids.tolist(), history.generated.tolist()
    ([5, 6, 7], [7])
    """

    def __init__(self, prompt: Array) -> None:
        ids = np.asarray(prompt)
        if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0):
            least = f" from {ids.min()}" if ids.dtype.kind in "iuf" else ""
            raise InputError(
                f"a history holds {ids.dtype} {list(ids.shape)}{least}", hint="token ids are integers of at least 0"
            )
        self.prompt_length = self._length = ids.size
        self._held = np.zeros(max(16, 2 * ids.size), dtype=np.int64)
        self._held[: ids.size] = ids
        self._largest = int(ids.max()) if ids.size else -1

    def append(self, token: int) -> None:
        """Add a generated token."""
        if self._length == len(self._held):
            self._held = np.concatenate([self._held, np.zeros_like(self._held)])
        self._held[self._length] = token
        self._length += 1
        self._largest = max(self._largest, token)

    def __len__(self) -> int:
        return self._length

    @property
    def ids(self) -> Array:
        """All ids, prompt and generated: int64 [n]; a view."""
        return self._held[: self._length]

    @property
    def generated(self) -> Array:
        """The ids behind the prompt: int64 [n]; a view."""
        return self._held[self.prompt_length : self._length]

    def check(self, row: int, vocab_size: int) -> None:
        """Refuse ids beyond a vocabulary.

        Raises:
            InputError: names the row and the largest id.
        """
        if self._largest >= vocab_size:
            raise InputError(
                f"the history of row {row} holds token {self._largest}",
                hint=f"token ids are integers from 0 to {vocab_size - 1}",
            )
