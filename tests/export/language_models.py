"""The exported graph of every family of language models, and what transformers computes with the same weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx_ir as ir
from tests.models.sources.transformers.small_models import (
    LONGROPE,
    PROMPTS,
    SMALL,
    Pair,
    make_pair,
    scaled,
    their_text,
)

from aigc_calibration.onnx_file import to_proto
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.prepare.prepare import pass_feeds
from aigc_models.program import Program
from aigc_models.programs import CacheKind, lm_program
from aigc_models.text_assets import NO_TEXT
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.session import Session

MIXED = ("qwen2", "smollm3", "gemma2", "gemma3_text")
"""Families with two kinds of layers; of the others one layer shows all."""
CACHES: dict[str, CacheKind] = {family: ("growing", "buffer")[i % 2] for i, family in enumerate(SMALL)}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A family's model as it goes to a device.

    Attributes:
        pair: transformers' model and ours.
        program: of ours.
        graph: after all passes.
    """

    pair: Pair
    program: Program
    graph: ir.Model

    def session(self) -> Session:
        """The graph in ONNX Runtime."""
        return OrtSession(to_proto(self.graph).SerializeToString(), self.program.part.interface, threads=1)


@cache
def exported(family: str) -> Exported:
    """A family's small model, captured once, with every kind of layer that it has."""
    layers = {"n_layer" if family == "gpt2" else "num_hidden_layers": 2 if family in MIXED else 1}
    change: dict[str, Any] = {"sliding_window": None, **scaled(family, LONGROPE)} if family == "phi3" else {}
    if family == "gpt_neox":
        # TensorRT-RTX 1.7's builder crashes on rotated heads of 8 numbers that share no keys; on 16 it does not.
        change["num_attention_heads"] = 3
    pair = make_pair(family, **layers, **change)
    program = lm_program(pair.ours, text=NO_TEXT, cache=CACHES[family])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured = capture(program.part, model_config=program.model_config)
    graph, _ = run_passes(captured.model, CLEAN_UP, feeds=pass_feeds(program.part, 0))
    return Exported(pair=pair, program=program, graph=graph)


def rope_is_long(family: str) -> bool:
    """Whether transformers gives all rows of a batch other factors once one of them is long."""
    return family == "phi3"


@cache
def expected_text(family: str, new: int = 64) -> tuple[list[int], ...]:
    """What transformers writes behind every prompt."""
    theirs = exported(family).pair.theirs
    batches = [[prompt] for prompt in PROMPTS] if rope_is_long(family) else [list(PROMPTS)]
    return tuple(tokens for batch in batches for tokens in their_text(theirs, batch, new).tokens)
