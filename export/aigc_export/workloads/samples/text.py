"""Windows of a text as a language model reads them: a prompt, then token by token with a filled cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aigc_calibration.data.draws import paired_order, stratified, stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.data.recorder import Recorder
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_export.workloads.sizes import BATCH
from aigc_models.data.documents import Document, Render, plain_documents, read_documents
from aigc_models.data.held_out import without
from aigc_models.data.text_data import standard_library_text
from aigc_models.evaluation.evaluation import NO_TOKENIZER, check_form, random_documents
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.kind import Roles
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text import DECODE, INPUT_IDS, LOGITS_TO_KEEP, PAD_LENGTH, PREFILL

__all__ = ["TextData", "calibrated_places", "calibration_documents", "engine_of_step", "engines_of"]

STREAM = 1
"""Of random numbers; see `draws.stream`."""
SEQUENCE = "sequence"
PLACES = 64
"""Of a window, whose logits are computed."""
SHORT_WINDOW = 128
"""Tokens: a text must have two windows of this length, or of the model's context. Choices are judged on windows of this
length, since texts differ in which layers they harm: docs/adr/0054-steady-choices.md."""
TOKENS_AT_ONCE = 512
"""In a run, at most: memory does not grow with the length of windows."""
MOST_ROWS = 8
"""In a run."""
SMALLEST_PART = 16
"""Batches that short windows make at least, where they have more tokens in a run than `TOKENS_AT_ONCE`."""
FIRST_TOKEN_SHARE = 1 / 16
"""How often the first token of a window counts where weights are rounded, as a share of the window's tokens: most heads
of a trained model attend to it from every later place, and its values are far larger than others (Xiao et al. 2024,
"Efficient streaming language models with attention sinks", section 3.1; Sun et al. 2024, "Massive activations in large
language models"). What rounding does to it reaches every token. docs/quantization.md has what other shares gave."""
CALIBRATION_SEED = 1
"""Of random tokens: others than those that are evaluated on."""


def engines_of(roles: Roles) -> tuple[str, str]:
    """Name the engines that read prompts, and that read single tokens."""
    only = roles.get(MAIN_ENGINE, "")
    return roles.get(PREFILL, only), roles.get(DECODE, only)


def engine_of_step(roles: Roles, step: int) -> str:
    """Name the engine that reads a step of a case: the first is a prompt, those behind it are single tokens."""
    prefill, decode = engines_of(roles)
    return decode if step else prefill


def calibrated_places(ids: Array) -> Array:
    """Choose the places of rows of tokens [B, S] whose logits are computed: [at most `PLACES`] int64.

    The head alone sees fewer than all: a large vocabulary's logits would take most of the time and memory. They lie
    evenly, the first and the last among them.
    """
    length = ids.shape[1]
    return np.linspace(0, length - 1, min(length, PLACES)).round().astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Windows of a text: each is read as a prompt, and its last tokens one by one behind a filled cache.

    Attributes:
        interface: of the language model.
        settings: of its pipeline.
        tokens: [N] int64, the whole text.
        samples: windows, one from each of as many stretches of the text.
        length: tokens in a window, cut to what the model takes, and to half of a text that is short.
        decode_steps: tokens of each window that are read one by one.
        batch: windows at a time; None takes as many as have `TOKENS_AT_ONCE`, and the model takes.
        seed: of the windows' places.
    """

    interface: Interface
    settings: TextSettings
    tokens: Array
    samples: int = 64
    length: int = 512
    decode_steps: int = 1
    batch: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.samples, 1 if self.batch is None else self.batch)
        needed, vocab_size = self.window, self.settings.vocab_size
        expected = f"expected text of at least {2 * needed:,} tokens from 0 to {vocab_size - 1}"
        if needed < 2 or len(self.tokens) < 2 * needed:
            raise CalibrationError(f"the calibration text has {len(self.tokens):,} tokens", hint=expected)
        if self.tokens.min() < 0 or self.tokens.max() >= vocab_size:
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
    def _most_rows(self) -> int:
        dim = self.interface.dim(BATCH)
        return MOST_ROWS if dim is None or dim.max is None else min(MOST_ROWS, dim.max)

    @property
    def _rows_at_once(self) -> int:
        return max(1, min(self._most_rows, TOKENS_AT_ONCE // self.window))

    @property
    def window(self) -> int:
        """Number of tokens in a window."""
        dim = self.interface.dim(SEQUENCE)
        longest = None if dim is None else dim.max
        most = min(self.length, self.settings.context_length, longest or self.length)
        return min(most, max(len(self.tokens) // 2, SHORT_WINDOW))

    def short_rows(self) -> TextData:
        """Windows of `SHORT_WINDOW` tokens, as many more of them, each read at once.

        Choices run a graph over few of them many times. Its weights are read, and their codes made into floats, once
        for all rows of a batch, and again for a single token behind them.
        """
        times = self.window // SHORT_WINDOW
        if times < 2:
            return self
        short = replace(self, samples=times * self.samples, length=SHORT_WINDOW, decode_steps=0)
        enough = min(self._most_rows, short.samples // SMALLEST_PART)
        return replace(short, batch=self.batch or max(short._rows_at_once, enough))

    def row_weights(self, feeds: Mapping[str, Array]) -> Array | None:
        """Say how often each token of a batch counts, [batch, tokens]: the first of a window more than others."""
        ids = feeds[INPUT_IDS]
        if ids.shape[1] == 1:  # read behind a filled cache
            return None
        weights = np.ones(ids.shape, dtype=np.float32)
        weights[:, 0] = max(1.0, self.window * FIRST_TOKEN_SHARE)
        return weights

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph, the cache among them."""
        recorder = Recorder(run)
        session = ArraySession(recorder, self.interface)
        rng = stream(self.seed, STREAM)
        # One window per stretch of the text, so that few windows already cover all of it.
        starts = stratified(self.samples, len(self.tokens) - self.window + 1, rng)
        starts = starts[paired_order(self.samples, rng)]
        prompt = self.window - self._steps
        batch = self.batch or self._rows_at_once
        for first in range(0, self.samples, batch):
            rows = starts[first : first + batch]
            ids = np.stack([self.tokens[s : s + self.window] for s in rows]).astype(np.int64)
            state = session.new_state(len(rows))
            pads = np.zeros(len(rows), dtype=np.int64)
            pieces = [ids[:, :prompt], *(ids[:, step : step + 1] for step in range(prompt, self.window))]
            for piece in pieces:
                feeds = {INPUT_IDS: piece, PAD_LENGTH: pads, LOGITS_TO_KEEP: calibrated_places(piece)}
                if piece is pieces[-1]:
                    recorder.record_last(session, feeds, state)
                else:
                    session.run(feeds, state)
                yield from recorder.take()


def calibration_documents(
    path: Path | str | None,
    settings: TextSettings,
    *,
    own_text: Sequence[bytes],
    held_out: Sequence[bytes],
    render: Render | None,
) -> tuple[Document, ...]:
    """Read what to calibrate on.

    Args:
        path: the user's file or folder; None takes the checkpoint's own text, else the standard library's sources.
        settings: of the model's pipeline.
        own_text: what the checkpoint keeps of the text that it was trained on, in pieces.
        held_out: the text that quality is measured on, in pieces: where it stands in the user's text, it is left out.
        render: of the model's chat template; None where it has none.

    Raises:
        CalibrationError: nothing but text that quality is measured on, or text for a model without a tokenizer.
        InputError: files that cannot be read.
    """
    if path is None:
        if settings.tokenizer.kind == NO_TOKENIZER:
            return random_documents(settings, seed=CALIBRATION_SEED)
        return plain_documents(own_text) or plain_documents(standard_library_text().train_pieces)
    documents = read_documents(path, render=render, error=CalibrationError)
    check_form(documents, settings, path, error=CalibrationError)
    kept = without(documents, held_out)
    if documents and not kept:
        raise CalibrationError(
            f"all of the calibration text {str(path)!r} is text that quality is measured on",
            hint="calibrate on other text, such as what the model was trained on",
        )
    return kept
