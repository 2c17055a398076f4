"""What a language model has read: the token ids of some rows, and the carried state that stands for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import FeedError
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_tensors import INPUT_IDS, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

__all__ = ["Cancel", "Reading"]

Cancel = Callable[[], bool]


class Reading:
    """Rows of token ids that a carried state holds; all have the same number, with padding at the left.

    Shapes: B rows, T tokens held, S new tokens, V vocabulary.

    Args:
        engines: that read.
        pad_B: [B] int64, how many of the first tokens of each row are padding.
        prefill_chunk: tokens that are read at once at most; None derives it from the memory of attention scores. It may
            be changed.

    Attributes:
        length: tokens that are held, padding included.
    """

    def __init__(self, engines: TextEngines, pad_B: Array, *, prefill_chunk: int | None = None) -> None:
        self._engines, self._pad_B, self.prefill_chunk = engines, pad_B, prefill_chunk
        self._begin()

    def _begin(self) -> None:
        self._state = self._engines.program.new_state(len(self._pad_B))
        self._read: list[Array] = []
        self.length = 0
        self._is_long = False

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text."""
        return self._engines.settings.eos_token_ids

    @property
    def token_ids(self) -> Array:
        """All token ids that are held, padding included: [B, T] int64."""
        if len(self._read) != 1:
            self._read = [np.concatenate([np.zeros((len(self._pad_B), 0), dtype=np.int64), *self._read], axis=1)]
        return self._read[0]

    def feed(self, ids_BS: Array, *, cancel: Cancel | None = None) -> Array | None:
        """Read further tokens.

        Args:
            ids_BS: [B, S] int64, S at least 1.
            cancel: asked before every run.

        Returns:
            [B, V] float32, the logits behind the last token; None where `cancel` said so, after some or none were read.

        Raises:
            FeedError: more tokens than the carried state holds.
            EngineError: the engine failed. What is held is not to be used any more.
        """
        logits_BKV = self._read_tokens(ids_BS, 1, cancel, one_by_one=False)
        return None if logits_BKV is None else logits_BKV[:, -1]

    def feed_each(self, ids_BS: Array, *, cancel: Cancel | None = None) -> Array | None:
        """Read further tokens; see `feed`.

        Args:
            ids_BS: [B, S] int64, S at least 1, and at most one more than `spare`.
            cancel: asked before every run.

        Returns:
            [B, S, V] float32, the logits behind each of them; None where `cancel` said so.

        Raises:
            FeedError: as `feed`, also for the next one.
            EngineError: the engine failed.
        """
        return self._read_tokens(ids_BS, ids_BS.shape[1], cancel, one_by_one=True)

    @property
    def spare(self) -> int:
        """How many tokens may be read beyond the next one, to be forgotten again: at least 0."""
        most = min(self._engines.max_steps - self.length - 1, self._engines.max_kept - 1)
        again = self._engines.settings.recompute_at
        if again is not None and not self._is_long:
            # What is beyond would make all of it be read anew, though it may not come to be.
            most = min(most, again - (self.length - int(self._pad_B.min())) - 1)
        return max(0, most)

    def _read_tokens(self, ids_BS: Array, last: int, cancel: Cancel | None, *, one_by_one: bool) -> Array | None:
        """Read tokens: [B, last, V], the logits behind the last of them; see `feed`."""
        count, again = ids_BS.shape[1], self._engines.settings.recompute_at
        is_long = again is not None and self.length + count - int(self._pad_B.min()) > again
        # What is held may have been cut back to so little that a first run behind it would be seen as a short text's.
        is_cut = is_long and again is not None and self.length - int(self._pad_B.max()) < again
        if self.length and (is_long != self._is_long or is_cut):
            # Such a model sees every token another way now: as transformers does, all are read again.
            ids_BS = np.concatenate([self.token_ids, ids_BS], axis=1)
            self._begin()
        self._is_long = is_long
        pieces = self._engines.pieces(
            len(self._pad_B),
            self.length,
            ids_BS.shape[1],
            prefill_chunk=self.prefill_chunk,
            one_by_one=one_by_one,
            together=again + 1 + int(self._pad_B.max()) if again is not None and is_long and not self.length else 0,
        )
        found, at, wanted = list[Array](), 0, ids_BS.shape[1] - last
        for engine, size in pieces:
            if cancel is not None and cancel():
                return None
            feeds = {
                INPUT_IDS: ids_BS[:, at : at + size],
                PAD_LENGTH: self._pad_B,
                LOGITS_TO_KEEP: np.arange(min(max(wanted - at, 0), size - 1), size, dtype=np.int64),
            }
            logits_BKV = self._engines.program.run(engine, feeds, self._state)[LOGITS]
            if at + size > wanted:
                found.append(logits_BKV)
            self._read.append(ids_BS[:, at : at + size].copy())
            at += size
            self.length += size
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`; where the state cannot, it forgets all.

        Raises:
            EngineError: the engine's device failed.
        """
        if length == self.length:
            return
        ids_BT = self.token_ids[:, :length]
        try:
            if not length:
                raise FeedError("nothing is left")
            self._state.truncate(length)
        except FeedError:
            self._begin()
            return
        self._read, self.length = [ids_BT], length

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows, in this order.

        Raises:
            EngineError: the engine's device failed.
        """
        if list(rows) == list(range(len(self._pad_B))):
            return
        self._state.select(rows)
        self._read = [self.token_ids[list(rows)]]
        self._pad_B = self._pad_B[list(rows)]
