"""The loop of text generation: read the prompts, then one token after the other.

Shapes: B rows, S tokens of the longest prompt, K places whose logits are kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.logits import sample_tokens
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text_rows import Row
from aigc_runtime.pipelines.text_tensors import INPUT_IDS, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

__all__ = ["Cancel", "TextLoop"]

Cancel = Callable[[], bool]


class TextLoop:
    """Generates rows with a language model.

    Args:
        program: the engines.
        settings: context and special tokens.
        prefill: the engine that reads prompts.
        decode: the engine that reads every token after.
    """

    def __init__(self, program: OpenProgram, settings: TextSettings, prefill: str, decode: str) -> None:
        self.program, self.settings, self.prefill, self.decode = program, settings, prefill, decode

    def steps(
        self, rows: list[Row], max_new_tokens: int, sampling: SamplingParams, cancel: Cancel | None
    ) -> Iterator[Array]:
        """Yield the tokens of every step, [B] int64, -1 for rows that are done; fills in the rows."""
        longest = max(row.prompt_tokens for row in rows)
        pad_B = np.array([longest - row.prompt_tokens for row in rows], dtype=np.int64)
        ids_BS = np.full((len(rows), longest), self.settings.pad_token_id, dtype=np.int64)
        for i, row in enumerate(rows):
            ids_BS[i, pad_B[i] :] = row.history.ids
        last = np.array([longest - 1], dtype=np.int64)
        feeds, engine = {INPUT_IDS: ids_BS, PAD_LENGTH: pad_B, LOGITS_TO_KEEP: last}, self.prefill
        state = self.program.new_state(len(rows))
        generators, history = [row.generator for row in rows], [row.history for row in rows]
        # The batch shares one cache, so its longest row fills the context first; padding counts towards it.
        room = min(max_new_tokens, self.settings.context_length - longest)
        for step in range(room):
            if cancel is not None and cancel():
                break
            logits_BV = self.program.run(engine, feeds, state)[LOGITS][:, -1]
            tokens_B = sample_tokens(logits_BV, sampling, generators, history, self.settings.eos_token_ids)
            yield self._accept(rows, tokens_B, last=step + 1 == room, full=room < max_new_tokens)
            if all(row.finish_reason is not None for row in rows):
                return
            if step == 0:
                engine = self.decode
                ids_BS, last = np.empty((len(rows), 1), dtype=np.int64), np.zeros(1, dtype=np.int64)
                feeds = {INPUT_IDS: ids_BS, PAD_LENGTH: pad_B, LOGITS_TO_KEEP: last}
            feeds[INPUT_IDS][:, 0] = tokens_B
        for row in rows:
            row.finish_reason = row.finish_reason or "cancelled"

    def _accept(self, rows: list[Row], tokens_B: Array, *, last: bool, full: bool) -> Array:
        told = tokens_B.copy()
        for i, row in enumerate(rows):
            if row.finish_reason is not None:
                told[i] = -1
                continue
            token = int(tokens_B[i])
            row.history.append(token)
            if token in self.settings.eos_token_ids:
                row.finish_reason, told[i] = "eos", -1
            elif last:
                row.finish_reason = "context" if full else "length"
        return told
