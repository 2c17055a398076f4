"""Which of two engines reads what: many tokens of a prompt the one for prompts, everything else the one for tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_reading import Reading

from .. import toys

ROLES = {"prefill": "prefill", "decode": "decode"}


class Two:
    """Two engines over one state, and which of them read how many tokens of how many rows.

    Args:
        tokens: that the engine for tokens reads at once at most; None for any number.
        at_once: the same of the engine for prompts.
        on_cpu: whether they run on a processor.
    """

    def __init__(self, *, tokens: int | None = None, at_once: int = 32, on_cpu: bool = True) -> None:
        self.runs: list[tuple[str, int, int]] = []
        interface = toys.lm_session("growing").interface
        interface = interface.with_dims(
            [replace(d, max=at_once) if d.name == "sequence" else d for d in interface.dims]
        )
        narrow = interface.with_dims([replace(d, max=tokens) if d.name == "sequence" else d for d in interface.dims])

        def noting(name: str) -> ArraySession:
            def run(values: Mapping[str, Array]) -> Mapping[str, Array]:
                rows, steps = values["input_ids"].shape
                self.runs.append((name, rows, steps))
                return toys.lm_function(values)

            return ArraySession(run, narrow if name == "decode" else interface)

        sessions = {name: noting(name) for name in ROLES}
        self.program = OpenProgram(sessions, dict.fromkeys(ROLES, "cache"), on_cpu=on_cpu)
        self.pipeline = TextPipeline(self.program, toys.TEXT, ROLES)

    def generate(self, *prompts: str) -> list[tuple[str, int, int]]:
        self.pipeline.generate(list(prompts), max_new_tokens=3)
        return self.runs


def test_a_long_prompt_is_read_by_the_engine_for_prompts() -> None:
    assert Two().generate("a" * 24) == [("prefill", 1, 24), ("decode", 1, 1), ("decode", 1, 1)]


def test_a_short_prompt_is_read_by_the_engine_for_tokens() -> None:
    assert Two().generate("a" * 23)[0] == ("decode", 1, 23)


def test_tokens_of_all_rows_count() -> None:
    assert Two().generate("a" * 12, "b" * 12)[0] == ("prefill", 2, 12)


def test_an_engine_that_takes_single_tokens_reads_no_prompt() -> None:
    assert Two(tokens=1).generate("a" * 5)[0] == ("prefill", 1, 5)


def test_what_is_looked_up_is_read_by_the_engine_for_tokens() -> None:
    """So that its logits are those of a text that nothing was looked up for, however many there are."""
    for read, engine in ((Reading.feed, "prefill"), (Reading.feed_each, "decode")):
        two = Two()
        reading = Reading(two.pipeline.engines, np.zeros(1, dtype=np.int64))
        reading.feed(np.array([[1, 2]]))
        read(reading, np.arange(26)[None])
        assert two.runs == [("decode", 1, 2), (engine, 1, 26)]


@pytest.mark.parametrize(("rows", "total", "most"), [(1, 100, 256), (64, 2**18, 64)])
def test_pieces_have_a_largest_and_a_smallest_size(rows: int, total: int, most: int) -> None:
    engines: TextEngines = Two().pipeline.engines
    assert engines.piece_tokens(rows, total) == most


@pytest.mark.parametrize(
    ("count", "sizes"), [(256, [256]), (384, [384]), (385, [256, 129]), (512, [256, 256]), (600, [256, 344])]
)
def test_a_short_rest_is_read_with_the_last_piece(count: int, sizes: list[int]) -> None:
    pieces = Two(at_once=4096).pipeline.engines.pieces(1, 0, count, prefill_chunk=None)
    assert pieces == [("prefill", size) for size in sizes]


def test_a_rest_does_not_exceed_the_memory_of_attention() -> None:
    pieces = Two(at_once=4096).pipeline.engines.pieces(64, 2**18 - 80, 80, prefill_chunk=None)
    assert pieces == [("prefill", 64), ("prefill", 16)]


def test_elsewhere_than_on_a_processor_pieces_are_as_large_as_memory_lets_them_be() -> None:
    two = Two(at_once=4096, on_cpu=False)
    assert two.pipeline.engines.pieces(1, 0, 2000, prefill_chunk=None) == [("prefill", 2000)]
