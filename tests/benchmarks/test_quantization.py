"""The outlier fixture: a language model whose activations grow outliers as those of large ones do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quant_subjects import Subject, load_subject

from aigc_calibration.config import QuantConfig
from aigc_calibration.quantize import quantize
from aigc_models.program import example_feeds
from aigc_models.torch_session import TorchSession

pytestmark = pytest.mark.slow
SAMPLES, WINDOWS = 48, 60


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject("lm-outliers")


def increase(subject: Subject, config: QuantConfig) -> float:
    """Relative increase of perplexity over the model without outliers, which computes the same function."""
    found = quantize(subject.graph, subject.data(0, SAMPLES), config, precision="int8")
    session = subject.open(ir.to_proto(found.graph).SerializeToString())
    try:
        return subject.judge(session, seed=0, samples=WINDOWS)[0]
    finally:
        session.close()


def test_the_fixture_is_the_same_function(subject: Subject) -> None:
    program = subject.program
    feeds = example_feeds(program.part, {"batch": 2, "kept": 24, "sequence": 24, "past": 0}, seed=0)
    feeds["pad_length"] = np.zeros_like(feeds["pad_length"])
    function = TorchSession(program.part).call
    assert subject.entry.reference is not None
    original = TorchSession(subject.entry.reference.part).call
    np.testing.assert_allclose(function(feeds)["logits"], original(feeds)["logits"], rtol=1e-3, atol=2e-4)


def test_outliers_cost_little_with_smoothing_and_much_without(subject: Subject) -> None:
    own = replace(subject.config("int8"), rotate=False)
    assert own.smooth
    smoothed, plain = increase(subject, own), increase(subject, replace(own, smooth={}))
    assert smoothed <= 0.002
    assert plain >= 5 * max(smoothed, 0.0005)
    rotated = increase(subject, replace(own, smooth={}, rotate=True))
    assert rotated <= 0.002
