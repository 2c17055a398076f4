"""Beam search: the beams of one prompt, step by step, as transformers' `generate` searches.

Notation: N beams, V tokens. A step takes the log probabilities of the next token of each beam and says which beams go
on, and with which token. transformers' `_beam_search` keeps a batch of prompts in arrays of fixed size and marks what
does not count by -1e9; here a beam that does not count is not there. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.candidates import largest
from aigc_runtime.generation.sampling_params import SamplingParams

__all__ = ["Beam", "BeamSearch"]


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A text of a search.

    Attributes:
        tokens: generated so far.
        score: the sum of its log probabilities; of a finished one over its length to the power of the length penalty.
    """

    tokens: tuple[int, ...]
    score: float


class BeamSearch:
    """The beams of one prompt.

    Args:
        params: `num_beams`, `length_penalty`, `early_stopping`.
        max_new_tokens: at which a text ends.
        ends: whether generated tokens end the text.
        eos_count: ids that end a text: more continuations are kept for each of them.

    Attributes:
        running: beams that go on, the best first.
        finished: texts that ended, the best first, at most `num_beams`.
        is_done: whether the search is over.
    """

    def __init__(
        self, params: SamplingParams, *, max_new_tokens: int, ends: Callable[[tuple[int, ...]], bool], eos_count: int
    ) -> None:
        self._params, self._most, self._ends = params, max_new_tokens, ends
        self._kept = max(2, 1 + eos_count) * params.num_beams
        self.running = [Beam(tokens=(), score=0.0)]
        self.finished: list[Beam] = []
        self.is_done = False

    def step(self, logprobs: Sequence[Array]) -> list[int]:
        """Go on by one token.

        Args:
            logprobs: of the next token of each running beam, [V] each.

        Returns:
            For each beam that runs on, the index of the one before that it continues.
        """
        found = self._best(logprobs)
        length = len(self.running[0].tokens) + 1
        ended = [self._ends(tokens) or length >= self._most for _, tokens, _ in found]
        open_beams = [one for is_end, one in zip(ended, found, strict=True) if not is_end][: self._params.num_beams]
        # Only a text among the best `num_beams` may finish; the rest is there so that enough can run on.
        for is_end, (_, tokens, score) in list(zip(ended, found, strict=True))[: self._params.num_beams]:
            if is_end:
                self._finish(tokens, score / float(length) ** self._params.length_penalty)
        self.running = [Beam(tokens=tokens, score=score) for _, tokens, score in open_beams]
        self.is_done = not open_beams or self._cannot_improve(length)
        return [parent for parent, _, _ in open_beams]

    def _best(self, logprobs: Sequence[Array]) -> list[tuple[int, tuple[int, ...], float]]:
        """The best continuations of all beams, the best first: (beam, tokens, sum of log probabilities)."""
        parents, tokens, scores = [], [], []
        for i, (beam, row) in enumerate(zip(self.running, logprobs, strict=True)):
            ids = largest(row, min(self._kept, len(row)))
            parents.append(np.full(len(ids), i))
            tokens.append(ids)
            scores.append(beam.score + row[ids].astype(np.float64))
        score = np.concatenate(scores)
        order = np.argsort(-score, kind="stable")[: self._kept]
        parent, token = np.concatenate(parents)[order], np.concatenate(tokens)[order]
        return [
            (int(p), (*self.running[p].tokens, int(t)), float(s))
            for p, t, s in zip(parent, token, score[order], strict=True)
            if s > -np.inf
        ]

    def _finish(self, tokens: tuple[int, ...], score: float) -> None:
        self.finished.append(Beam(tokens=tokens, score=score))
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self._params.num_beams :]

    def _cannot_improve(self, length: int) -> bool:
        """Whether the best running beam cannot beat the worst finished one, by transformers' heuristic."""
        if len(self.finished) < self._params.num_beams:
            return False
        if self._params.early_stopping is True:
            return True
        penalty = self._params.length_penalty
        longest = self._most if self._params.early_stopping == "never" and penalty > 0 else length
        best = self.running[0].score / float(longest) ** penalty
        return bool(best <= self.finished[-1].score)
