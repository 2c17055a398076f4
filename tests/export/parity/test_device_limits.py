"""Where quality decides, limits follow from what was measured; a device that computes something else misses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from aigc_export.parity.check import check_parity
from aigc_export.parity.device_limits import MARGIN_DB, as_measured, device_limits, held_to, settled
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.recipes.recipe import export_recipe
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array
from aigc_runtime.proof.paired import PairedMetric
from aigc_runtime.proof.verify import ParityReport

from ..conftest import make_program

TEXT = get_workload("text")
INT8 = TEXT.limits("int8")


@pytest.fixture(scope="module")
def program() -> Program:
    return make_program("lm-growing")


def noisy(program: Program, sqnr_db: float, *, seed: int = 0, spoiled: bool = False) -> ArraySession:
    """An engine whose logits are so far from PyTorch's."""
    session, rng = TorchSession(program.part), np.random.default_rng(seed)
    function = session._function
    assert function is not None

    def changed(values: Mapping[str, Array]) -> dict[str, Array]:
        out = dict(function(values))
        logits = np.asarray(out["logits"], dtype=np.float64)
        noise = np.asarray(rng.standard_normal(logits.shape))
        noise *= np.sqrt((logits**2).sum() / (noise**2).sum()) * 10 ** (-sqnr_db / 20)
        return {**out, "logits": (logits + (np.nan if spoiled else noise)).astype(np.float32)}

    session._function = changed
    return session


def quality(increase: float) -> Scores:
    metric = PairedMetric(
        name="ppl_increase",
        value=increase,
        standard_error=0.001,
        samples=9,
        higher_is_better=False,
        limit="max_quality_drop",
    )
    return Scores(paired=(metric,))


def report(
    program: Program, engine: ArraySession, tolerances: Tolerances, scores: Scores, precision: str
) -> ParityReport:
    torch_session = TorchSession(program.part)
    return check_parity(
        engine,
        program,
        name="lm",
        target="ort-cpu",
        precision=precision,
        cases=make_cases(torch_session, program, seed=0),
        generation=make_generation(torch_session, program, seed=0),
        scores=scores,
        tolerances=tolerances,
    )


def test_a_model_whose_quality_holds_is_published_and_a_device_that_differs_is_caught(program: Program) -> None:
    measured = report(program, noisy(program, 15.0), INT8, quality(0.05), "int8")
    assert not measured.passed
    assert {r for c in measured.tensors for r in c.reasons}
    settled_report, limits = settled(measured, INT8, TEXT, quality(0.05))
    assert settled_report.passed
    assert limits.tensor.min_sqnr_db == pytest.approx(15.0 - MARGIN_DB, abs=0.1)
    assert limits.min_token_agreement is not None
    assert limits.min_token_agreement <= max(measured.generation.value / 4, 0.01)
    assert limits.max_quality_drop == INT8.max_quality_drop
    assert limits.set_by_user == ()
    # Another device: noise of its own, up to the margin, and no further.
    for sqnr_db, passes in ((15.0, True), (10.0, True), (8.0, False), (3.0, False)):
        there = report(program, noisy(program, sqnr_db, seed=1), limits, Scores(), "int8")
        assert all(c.passed for c in there.tensors) is passes
    broken = report(program, noisy(program, 15.0, spoiled=True), limits, Scores(), "int8")
    assert not broken.passed
    assert as_measured(measured).min_sqnr_db == pytest.approx(15.0, abs=0.1)
    assert as_measured(measured).paired[0].standard_error == 0.001


def test_what_quality_does_not_excuse(program: Program) -> None:
    # Worse than the budget, however good the tensors.
    for engine, scores in ((noisy(program, 60.0), quality(0.09)), (noisy(program, 15.0), quality(float("nan")))):
        found, _ = settled(report(program, engine, INT8, scores, "int8"), INT8, TEXT, scores)
        assert not found.passed
        assert any("ppl_increase is" in why and "± 0.001 over 9 samples" in why for why in found.failures)
    # Nothing but noise, and what is no number.
    for engine in (noisy(program, 0.5), noisy(program, 15.0, spoiled=True)):
        found, limits = settled(report(program, engine, INT8, quality(0.0), "int8"), INT8, TEXT, quality(0.0))
        assert not found.passed
        assert limits.tensor.min_sqnr_db == 1.0


def test_where_tensors_decide(program: Program) -> None:
    fp32, good = TEXT.limits("fp32"), quality(0.0)
    for tolerances, precision, scores, workload in (
        (fp32, "fp32", good, TEXT),  # fp32 keeps its limits
        (INT8, "int8", Scores(), TEXT),  # no quality was measured
        (INT8, "int8", good, get_workload("gan")),
    ):
        measured = report(program, noisy(program, 15.0), tolerances, scores, precision)
        assert settled(measured, tolerances, workload, scores) == (measured, tolerances)
        assert not measured.passed


def test_limits_never_become_stricter_and_the_users_own_stay(program: Program) -> None:
    measured = report(program, noisy(program, 50.0), INT8, Scores(), "int8")
    assert device_limits(INT8, measured).tensor == INT8.tensor
    own = export_recipe("lm", precision="int8", tolerance={"min_sqnr_db": 20.0, "min_token_agreement": 0.9}).tolerances
    measured = report(program, noisy(program, 15.0), own, Scores(), "int8")
    limits = device_limits(own, measured)
    assert (limits.tensor.min_sqnr_db, limits.min_token_agreement) == (20.0, 0.9)
    assert not held_to(measured, limits).passed


def test_a_generation_that_failed_stays_failed(program: Program) -> None:
    measured = report(program, noisy(program, 50.0), INT8, Scores(), "int8")
    failed = replace(measured.generation, value=0.0, passed=False, reasons=("the engine failed",))
    found = held_to(replace(measured, generation=failed), device_limits(INT8, replace(measured, generation=failed)))
    assert not found.generation.passed
    assert found.generation.reasons == ("the engine failed",)
