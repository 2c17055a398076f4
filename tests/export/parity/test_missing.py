"""How many decibels are missing: each limit by what it says of noise, the most of all that is missed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aigc_export.parity.missing import HALVED_DB, missing_db
from aigc_runtime.core.compare import Tolerance, compare_arrays, judge
from aigc_runtime.proof.paired import PairedCheck, PairedMetric
from aigc_runtime.proof.text_vectors import TextCheck
from aigc_runtime.proof.verify import GenerationCheck, ParityReport, QualityCheck, TensorCheck

SIGNAL = np.random.default_rng(0).standard_normal(100_000)
NOISE = np.random.default_rng(1).standard_normal(100_000)
LOOSE = Tolerance(min_sqnr_db=1.0)


def report(db: float, tolerance: Tolerance, *, engine: str = "model", spoiled: bool = False) -> ParityReport:
    """An output whose noise lies so many decibels below it; the rest is within its limits."""
    actual = SIGNAL + NOISE * 10 ** (-db / 20)
    errors = compare_arrays(SIGNAL, actual * np.nan if spoiled else actual)
    verdict = judge(errors, tolerance)
    tensor = TensorCheck(
        case="a", step=0, engine=engine, output="y", errors=errors, passed=verdict.passed, reasons=verdict.reasons
    )
    generation = GenerationCheck(metric="psnr_db", value=50.0, limit=40.0, passed=True, reasons=())
    return ParityReport(name="m", target="ort-cpu", precision="int8", tensors=(tensor,), generation=generation)


@pytest.mark.parametrize("limit", [15.0, 25.0, 40.0])
def test_a_signal_to_noise_ratio(limit: float) -> None:
    tolerance = Tolerance(min_sqnr_db=limit)
    assert missing_db(report(20.0, tolerance), tolerance) == pytest.approx(max(0.0, limit - 20), abs=0.1)


@pytest.mark.parametrize("limit", [20.0, 25.0, 35.0])
def test_a_cosine_and_a_largest_error_ask_for_the_same_noise(limit: float) -> None:
    """What has exactly the limit's noise is within it, and what has more misses it by the difference."""
    there, here = compare_arrays(SIGNAL, SIGNAL + NOISE * 10 ** (-limit / 20)), report(15.0, LOOSE)
    for tolerance in (Tolerance(min_cosine=there.cosine), Tolerance(max_over_rms=there.max_over_rms)):
        found = report(15.0, tolerance)
        assert not found.passed
        assert missing_db(found, tolerance) == pytest.approx(limit - 15, abs=0.3)
        assert missing_db(report(limit + 0.1, tolerance), tolerance) == 0
    assert here.passed


def test_a_generation_and_what_is_measured_of_the_quality() -> None:
    found = report(20.0, LOOSE)
    missed = replace(found.generation, value=30.0, passed=False)
    assert missing_db(replace(found, generation=missed), LOOSE) == 10
    tokens = GenerationCheck(metric="token_agreement", value=0.2, limit=0.9, passed=False, reasons=("missed",))
    assert missing_db(replace(found, generation=tokens), LOOSE) == HALVED_DB
    drop = QualityCheck(
        metric="m", reference=1.0, actual=0.8, drop=0.2, limit=0.02, higher_is_better=True, passed=False
    )
    assert missing_db(replace(found, quality=(drop,)), LOOSE) == pytest.approx(10)
    loss = PairedMetric(name="ppl_increase", value=0.4, standard_error=0.0, samples=9, higher_is_better=False)
    paired = (PairedCheck(metric=loss, limit=0.1, passed=False),)
    assert missing_db(replace(found, paired=paired), LOOSE) == pytest.approx(6.02, abs=0.01)
    psnr = PairedMetric(name="psnr_db", value=38.0, standard_error=0.0, samples=9)
    both = (*paired, PairedCheck(metric=psnr, limit=45.0, passed=False))
    assert missing_db(replace(found, paired=both), LOOSE) == 7
    equal = PairedMetric(name="top1_agreement", value=0.5, standard_error=0.0, samples=9)
    assert missing_db(replace(found, paired=(PairedCheck(metric=equal, limit=0.9, passed=False),)), LOOSE) == HALVED_DB


def test_the_tensors_of_one_engine() -> None:
    tolerance = Tolerance(min_sqnr_db=30.0)
    both = report(20.0, tolerance)
    both = replace(both, tensors=(*both.tensors, *report(40.0, tolerance, engine="other").tensors))
    assert missing_db(both, tolerance, engine="model") == pytest.approx(10, abs=0.1)
    assert missing_db(both, tolerance, engine="other") == 0
    assert missing_db(both, tolerance, engine="third") is None


def test_what_less_noise_would_not_mend() -> None:
    assert missing_db(report(20.0, LOOSE, spoiled=True), LOOSE) is None
    assert missing_db(replace(report(20.0, LOOSE), tensors=()), LOOSE) is None
    text = TextCheck(made_by="a test", texts=1, chats=0, passed=False, reasons=("a token differs",))
    assert missing_db(replace(report(20.0, LOOSE), text=text), LOOSE) is None
    lost = GenerationCheck(metric="psnr_db", value=float("nan"), limit=1.0, passed=False, reasons=())
    assert missing_db(replace(report(20.0, LOOSE), generation=lost), LOOSE) is None
    endless = PairedMetric(name="kl", value=float("inf"), standard_error=0.0, samples=2, higher_is_better=False)
    paired = (PairedCheck(metric=endless, limit=0.1, passed=False),)
    assert missing_db(replace(report(20.0, LOOSE), paired=paired), LOOSE) is None
