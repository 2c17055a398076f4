"""Record what a graph is fed while a pipeline runs over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aigc_calibration.onnx_function import Feeds
from aigc_runtime.core.tensors import Array

__all__ = ["Recorder"]


class Recorder:
    """Wraps a function of all graph inputs, and calls it with copies of its feeds, which it keeps."""

    def __init__(self, run: Callable[[Feeds], dict[str, Array]]) -> None:
        self.run = run
        self.records: list[dict[str, Array]] = []

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run the function on copies, and keep them."""
        self.records.append({name: np.array(value) for name, value in feeds.items()})
        return self.run(self.records[-1])

    def take(self) -> list[dict[str, Array]]:
        """Return the feeds recorded since the last call."""
        records, self.records = self.records, []
        return records
