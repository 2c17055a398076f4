"""A bundle of this product, by its own runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aigc_runtime._version import __version__
from aigc_runtime.core.tensors import Array
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["Engine", "version"]


def version() -> str:
    """The runtime's."""
    return __version__


class Engine:
    """See `aigc_export.peers.engines`.

    Args:
        folder: of the bundle.
        form: not read: a bundle has one.
        threads: of the engine.
    """

    def __init__(self, folder: str, form: str, threads: int) -> None:
        pipeline = open_pipeline(folder, threads=threads)
        if not isinstance(pipeline, TextPipeline):
            raise TypeError("the bundle is of no language model")
        self.pipeline = pipeline
        self._tokens: Iterator[list[int]] = iter(())

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        """Read prompts; the likeliest next token of each."""
        self._tokens = self.pipeline.tokens_behind(np.array(rows), room)
        return next(self._tokens)

    def step(self) -> list[int]:
        """The next tokens."""
        return next(self._tokens)

    def positions(self, ids: list[int]) -> Array:
        """Logits of every place: [S, V] float32."""
        from aigc_models.evaluation.quality import session_logits

        logits = session_logits(self.pipeline.program.session(self.pipeline.prefill))
        found: Array = np.concatenate(list(logits(np.array([ids], dtype=np.int64))), axis=1)[0]
        return found
