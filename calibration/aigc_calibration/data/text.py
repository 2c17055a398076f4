"""Windows of a text as a language model reads them: a prompt, then token by token with a filled cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data.draws import paired_order, stratified, stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import Feeds, open_onnx
from aigc_calibration.subject import Subject
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.settings import TextSettings

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Recorder", "TextData"]


class Recorder:
    """Wraps a function of all graph inputs and keeps copies of its feeds."""

    def __init__(self, run: Callable[[Feeds], dict[str, Array]]) -> None:
        self.run = run
        self.records: list[dict[str, Array]] = []

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run the function and keep its feeds."""
        self.records.append({name: np.array(value) for name, value in feeds.items()})
        return self.run(feeds)

    def take(self) -> list[dict[str, Array]]:
        """Return the feeds recorded since the last call."""
        records, self.records = self.records, []
        return records


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Windows of a text: each is read as a prompt, and its last tokens one by one behind a filled cache.

    Attributes:
        subject: the interface and settings of the language model.
        tokens: [N] int64, the whole text.
        samples: windows, one from each of as many stretches of the text.
        length: tokens in a window, cut to what the model takes.
        decode_steps: tokens of each window that are read one by one.
        batch: windows at a time.
        seed: of the windows' places.
    """

    subject: Subject
    tokens: Array
    samples: int = 64
    length: int = 128
    decode_steps: int = 4
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.samples, self.batch)
        settings = self.subject.settings
        if not isinstance(settings, TextSettings):
            raise CalibrationError("text was given for a model that reads none", hint="give images or an .npz")
        needed = self.window
        expected = f"expected text of at least {2 * needed:,} tokens from 0 to {settings.vocab_size - 1}"
        if needed < 2 or len(self.tokens) < 2 * needed:
            raise CalibrationError(f"the calibration text has {len(self.tokens):,} tokens", hint=expected)
        if self.tokens.min() < 0 or self.tokens.max() >= settings.vocab_size:
            raise CalibrationError(
                f"the calibration text has token ids from {self.tokens.min()} to {self.tokens.max()}", hint=expected
            )
        if self.tokens.min() == self.tokens.max():
            raise CalibrationError(
                "the calibration text is one token over and over", hint=f"give real text: {expected}"
            )

    @property
    def rows(self) -> int:
        """Number of rows: one prompt for every window, and one row for each token behind it."""
        return self.samples * (1 + self._steps)

    @property
    def _steps(self) -> int:
        return min(self.decode_steps, self.window - 1)

    @property
    def window(self) -> int:
        """Number of tokens in a window."""
        dims = {d.name: d.max for d in self.subject.interface.dims}
        settings = self.subject.settings
        context = settings.context_length if isinstance(settings, TextSettings) else self.length
        return min(self.length, context, dims.get("sequence") or self.length)

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph, the cache among them."""
        recorder = Recorder(open_onnx(graph, threads=threads))
        session = self.subject.session(recorder)
        rng = stream(self.seed, "text")
        # One window per stretch of the text, so that few windows already cover all of it.
        starts = stratified(self.samples, len(self.tokens) - self.window + 1, rng)
        starts = starts[paired_order(self.samples, rng)]
        prompt = self.window - self._steps
        for first in range(0, self.samples, self.batch):
            rows = starts[first : first + self.batch]
            ids = np.stack([self.tokens[s : s + self.window] for s in rows]).astype(np.int64)
            state = session.new_state(len(rows))
            pads = np.zeros(len(rows), dtype=np.int64)
            session.run({"input_ids": ids[:, :prompt], "pad_length": pads}, state)
            for step in range(prompt, self.window):
                session.run({"input_ids": ids[:, step : step + 1], "pad_length": pads}, state)
            yield from recorder.take()
