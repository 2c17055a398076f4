"""The tensors and engines of a language model, by name."""

from __future__ import annotations

from aigc_runtime.core.program import OpenProgram
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import require_tensors

__all__ = [
    "DECODE",
    "INPUT_IDS",
    "KEPT",
    "LOGITS",
    "LOGITS_TO_KEEP",
    "PAD_LENGTH",
    "PREFILL",
    "require_engines",
]

INPUT_IDS = "input_ids"
PAD_LENGTH = "pad_length"
LOGITS_TO_KEEP = "logits_to_keep"
LOGITS = "logits"
"""The tensors of a language model, its carried state aside."""

KEPT = "kept"
"""The dimension that says of how many places a run computes logits."""

PREFILL, DECODE = "prefill", "decode"
"""Roles of two engines over one carried state: one reads the prompt, the other the tokens after it."""


def require_engines(program: OpenProgram, prefill: str, decode: str, vocab_size: int) -> None:
    """Refuse engines that are no language model, or two of which one would not go on with what the other has read.

    Raises:
        ConfigError: other inputs, outputs or sizes, or no common state.
    """
    for engine in dict.fromkeys((prefill, decode)):
        require_tensors(
            program.session(engine),
            inputs={
                INPUT_IDS: ("int64", (None, None)),
                PAD_LENGTH: ("int64", (None,)),
                LOGITS_TO_KEEP: ("int64", (None,)),
            },
            outputs={LOGITS: ("float32", (None, None, vocab_size))},
        )
    if prefill == decode:
        return
    states = [program.states.get(engine) for engine in (prefill, decode)]
    specs = [program.session(engine).interface.state for engine in (prefill, decode)]
    if states[0] is None or states[0] != states[1] or specs[0] != specs[1]:
        raise ConfigError(
            f"the engines {prefill!r} and {decode!r} do not share a carried state",
            hint=f"{DECODE} goes on with what {PREFILL} has read: both must name one state",
        )
