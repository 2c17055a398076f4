"""The graph of every family of language models computes and writes, in ONNX Runtime, what transformers does.

TensorRT-RTX builds the same graphs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.sources.transformers.small_models import PROMPTS, SMALL, token_ids

from aigc_export.targets.tensorrt.library import Library
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.pipelines.text import TextPipeline

from ..language_engines import build_family
from ..language_models import CACHES, expected_text, exported

FAST = ("llama", "mistral", "gpt2")
"""Each form of the cache, a window, and the oldest architecture; the other families take a capture each."""
ACCURACY = 1e-5
"""Of the reference's scale."""


def text_of(session: Session, family: str, new: int = 64) -> list[list[int]]:
    program = exported(family).program
    pipeline = TextPipeline(OpenProgram({"model": session}, program.states, program.assets), program.settings)
    return [row.token_ids.tolist() for row in pipeline.generate(list(PROMPTS), max_new_tokens=new)]


def logits_error(session: Session, family: str, ids: torch.Tensor) -> float:
    """Largest error of the logits at every place, relative to the reference's scale."""
    rows, length = ids.shape
    feeds = {
        "input_ids": ids.numpy(),
        "pad_length": np.zeros(rows, dtype=np.int64),
        "logits_to_keep": np.arange(length, dtype=np.int64),
    }
    found = session.run(feeds, session.new_state(rows))["logits"]
    with torch.no_grad():
        expected = exported(family).pair.theirs(ids).logits.numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def but_slow(names: Iterable[str], *fast: str) -> list[Any]:
    """Names as parameters; those that are not named fast are of slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def test_both_forms_of_the_cache_are_exported() -> None:
    assert set(CACHES) == set(SMALL)
    assert set(CACHES.values()) == {"growing", "buffer"}


@pytest.mark.parametrize("family", but_slow(SMALL, *FAST))
def test_the_graph_computes_and_writes_what_transformers_does(family: str) -> None:
    session = exported(family).session()
    assert logits_error(session, family, token_ids()) < ACCURACY
    assert text_of(session, family) == list(expected_text(family))


@pytest.mark.parametrize("precision", but_slow(["fp16", "int8"], "fp16"))
@pytest.mark.parametrize("family", but_slow(SMALL, "llama"))
def test_tensorrt_rtx_builds_it(rtx: Library, family: str, precision: str, tmp_path: Path) -> None:
    built = build_family(rtx, family, precision, tmp_path)
    assert "unknown" not in built.proof.work
    assert built.proof.work[precision] > 0.5


def test_that_comparison_can_fail() -> None:
    # The same weights without the window.
    session = exported("mistral").session()
    theirs = exported("mistral").pair.theirs
    before = theirs.config.sliding_window
    theirs.config.sliding_window = before + 1
    try:
        assert logits_error(session, "mistral", token_ids()) > 10 * ACCURACY
    finally:
        theirs.config.sliding_window = before
    assert logits_error(session, "mistral", token_ids()) < ACCURACY
