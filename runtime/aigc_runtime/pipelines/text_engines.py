"""What the engines of a language model take: rows, steps, and pieces of a prompt that fit into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text_tensors import INPUT_IDS, LOGITS_TO_KEEP

__all__ = ["Piece", "TextEngines"]

_SCORE_BYTES = 2**28
"""Memory that the attention scores of one layer may take while a prompt is read."""

_QUERIES_PER_KEY = 8
"""Heads of queries that share a head of keys, at most: carried state says how many of the latter there are."""

_MIN_PIECE, _MOST_PIECE = 64, 256
"""Tokens of a row that are read at once, however many scores there are; and on a processor, however few: it reads 2,048
tokens in pieces of 256 in 0.90 to 0.93 of the time of pieces of 1,024 (docs/adr/0057). A rest of at most half of it is
read with the last."""

_FEW_TOKENS = 24
"""Tokens of all rows, below which an engine for prompts reads them no faster than that for tokens: products of whole
rows of codes took 0.9 to 1.2 times as long for 16 tokens, 0.6 to 1.1 for 24, 1.7 to 3.7 for one (docs/adr/0057)."""

Piece = tuple[str, int]
"""An engine, and how many tokens it reads in one run."""


@dataclass(frozen=True, kw_only=True)
class TextEngines:
    """The engines of a language model, and what they take.

    Attributes:
        program: they are of.
        settings: context and special tokens.
        prefill: the engine that reads prompts.
        decode: the engine that reads every token after.

    Raises:
        ConfigError: a model that must read many tokens anew at once, however many, and an engine that cannot.
    """

    program: OpenProgram
    settings: TextSettings
    prefill: str
    decode: str

    def __post_init__(self) -> None:
        again, dim = self.settings.recompute_at, self._steps(self.prefill)
        if again is None or again >= self.settings.context_length:
            return
        if dim.nearest(again + 1) != again + 1 or dim.multiple_of > 1:
            takes = f"{dim.min:,} or more" if dim.max is None else f"{dim.min:,} to {dim.max:,}"
            steps = f" in multiples of {dim.multiple_of:,}" if dim.multiple_of > 1 else ""
            raise ConfigError(
                f"recompute_at is {again:,}, the engine {self.prefill!r} reads {takes} tokens at once{steps}",
                hint=f"a longer text begins with {again + 1:,} tokens or more that are read at once",
            )

    def reads_at_once(self, tokens: int) -> bool:
        """Whether the engine of prompts reads so many tokens, padding included, in one run."""
        most = self._steps(self.prefill).max
        return most is None or tokens <= most

    def _steps(self, engine: str) -> DimSpec:
        """How many tokens an engine reads in one run."""
        spec = self.program.session(engine).interface.input(INPUT_IDS)
        return self._dim(engine, 1 if spec is None else spec.shape[1])

    def _dim(self, engine: str, size: int | str) -> DimSpec:
        if isinstance(size, int):
            return DimSpec(name="fixed", min=size, max=size)
        return self.program.session(engine).interface.dim(size) or DimSpec(name="free")

    @cached_property
    def max_kept(self) -> int:
        """Of how many places one run gives logits at most."""
        found = []
        for engine in dict.fromkeys((self.prefill, self.decode)):
            spec = self.program.session(engine).interface.input(LOGITS_TO_KEEP)
            found.append(self._dim(engine, 1 if spec is None else spec.shape[0]).max)
        return min((most for most in found if most is not None), default=self.max_steps)

    @property
    def forgets(self) -> bool:
        """Whether the carried state can be cut back to any of its beginnings."""
        engines = dict.fromkeys((self.prefill, self.decode))
        return all(s.behavior.can_truncate for engine in engines for s in self.program.session(engine).interface.state)

    @cached_property
    def _batches(self) -> list[DimSpec]:
        found = []
        for engine in dict.fromkeys((self.prefill, self.decode)):
            spec = self.program.session(engine).interface.input(INPUT_IDS)
            found.append(self._dim(engine, 1 if spec is None else spec.shape[0]))
        return found

    @cached_property
    def max_rows(self) -> int | None:
        """The most rows of one run; None where there is no limit."""
        return min((dim.nearest(dim.max) for dim in self._batches if dim.max is not None), default=None)

    def batch_of(self, rows: int) -> int:
        """The fewest rows of a run that has room for `rows`."""
        count = rows
        while any(dim.nearest(count) < count or count < dim.min or count % dim.multiple_of for dim in self._batches):
            count += 1
            if self.max_rows is not None and count > self.max_rows:
                return rows  # no size fits them all: the session says so
        return count

    @cached_property
    def max_steps(self) -> int:
        """The most tokens that a batch's carried state holds, padding included."""
        found = [self.program.session(engine).interface.max_steps for engine in (self.prefill, self.decode)]
        return min([self.settings.context_length, *(most for most in found if most is not None)])

    @cached_property
    def context_length(self) -> int:
        """The most tokens of a row, prompt and generated together: the last one is not read."""
        return min(self.settings.context_length, self.max_steps + 1)

    @cached_property
    def _heads(self) -> int:
        """Heads of keys: what a carried tensor has beside its rows, its steps, and the width of a head."""
        heads = 1
        for spec in self.program.session(self.prefill).interface.state:
            sizes = [size for axis, size in enumerate(spec.shape) if isinstance(size, int) and axis != spec.axis]
            heads = max(heads, math.prod(sizes) // max(sizes, default=1))
        return heads

    def piece_tokens(self, rows: int, total: int) -> int:
        """How many tokens are read at once by default, where there are many.

        Each of them has attention scores for all `total` tokens of the row, in every head of every row.
        """
        most = self._bounded_tokens(rows, total)
        return min(_MOST_PIECE, most) if self.program.on_cpu else most

    def _bounded_tokens(self, rows: int, total: int) -> int:
        """How many tokens keep the scores of one layer within their bound."""
        scores = rows * self._heads * _QUERIES_PER_KEY * total
        return max(_MIN_PIECE, _SCORE_BYTES // (4 * scores))

    def pieces(
        self,
        rows: int,
        held: int,
        count: int,
        *,
        prefill_chunk: int | None,
        together: int = 0,
        one_by_one: bool = False,
    ) -> list[Piece]:
        """How `count` tokens behind `held` ones are read.

        Args:
            rows: of the batch.
            held: tokens that the state holds.
            count: tokens to be read.
            prefill_chunk: tokens of one run at most; None for `piece_tokens`.
            together: tokens that must be read by the first run at least.
            one_by_one: whether their logits are to be those of an engine that reads one token after the other.
        """
        if count == 1 and held:
            return [(self.decode, 1)]
        few = one_by_one or rows * count < _FEW_TOKENS
        reader = self.decode if few and not together and self._steps(self.decode).max != 1 else self.prefill
        dim = self._steps(reader)
        if prefill_chunk is None:
            most = self.piece_tokens(rows, held + count)
            rest = min(most + most // 2, self._bounded_tokens(rows, held + count))
        else:
            most = rest = prefill_chunk
        found: list[Piece] = []
        left = count
        while left:
            size = min(left, max(rest if left <= rest else most, together if not found else 0, dim.min))
            size = dim.nearest(size)
            if size > left:  # fewer than the engine takes at once
                return [*found, *[(self.decode, 1)] * left]
            found.append((reader, size))
            left -= size
        return found
