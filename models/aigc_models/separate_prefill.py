"""A language model as two parts over one state: one reads prompts, the other every token after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aigc_models.program import Part, Program
from aigc_runtime.core.program import MAIN_ENGINE
from aigc_runtime.pipelines.text_tensors import DECODE, LOGITS_TO_KEEP, PREFILL

__all__ = ["CACHE", "can_separate_prefill", "with_separate_prefill"]

CACHE = "cache"
"""The name of the state that both parts carry."""


def can_separate_prefill(program: Program) -> bool:
    """Whether a program is a language model of one part that carries state."""
    if tuple(program.engines) != (MAIN_ENGINE,) or len(program.parts) > 1:
        return False
    interface = program.part.interface
    return bool(interface.state) and interface.input(LOGITS_TO_KEEP) is not None


def with_separate_prefill(program: Program) -> Program:
    """Make two parts of the only one: `prefill` reads prompts, `decode` every token after. Both take and give the same.

    Args:
        program: for which `can_separate_prefill` holds.
    """
    return replace(
        program,
        parts=_both(program.parts),
        engines={name: name for name in (PREFILL, DECODE)},
        states=dict.fromkeys((PREFILL, DECODE), CACHE),
        buffered=_both(program.buffered),
    )


def _both(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {name: replace(part, name=name) for part in parts.values() for name in (PREFILL, DECODE)}
