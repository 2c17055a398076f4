"""Where quality decides, limits follow from what was measured; a device that computes something else misses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from aigc_export.parity.check import check_parity
from aigc_export.parity.device_limits import MARGIN_DB, Settled, as_measured, settle
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.recipes.recipe import export_recipe
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.bundle.manifest import ReferenceStep, Tolerances
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.program import as_program
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.proof.paired import PairedMetric
from aigc_runtime.proof.verify import OwnLimits, ParityReport, check_tensors

from ..conftest import make_program

TEXT = get_workload("text")
INT8 = TEXT.limits("int8")
NO_SCORES, NO_LIMITS = Scores(), dict[tuple[str, int, str], Tolerance]()


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
    program: Program,
    engine: ArraySession,
    tolerances: Tolerances,
    scores: Scores = NO_SCORES,
    *,
    precision: str = "int8",
    own: OwnLimits = NO_LIMITS,
) -> ParityReport:
    torch_session = TorchSession(program.part)
    cases, generation = make_cases(torch_session, program, seed=0), make_generation(torch_session, program, seed=0)
    found = check_parity(
        engine,
        program,
        name="lm",
        target="ort-cpu",
        precision=precision,
        cases=cases,
        generation=generation,
        scores=scores,
        tolerances=tolerances,
    )
    steps = [(case.name, [(step.engine, step.inputs, step.outputs) for step in case.steps]) for case in cases]
    return replace(found, tensors=check_tensors(as_program(engine), steps, tolerances.tensor, own))


def test_a_model_whose_quality_holds_is_published_and_a_device_that_differs_is_caught(program: Program) -> None:
    scores = quality(0.02)
    measured = report(program, noisy(program, 15.0), INT8, scores)
    assert not any(check.passed for check in measured.tensors)
    found = settle(measured, INT8, TEXT, scores)
    assert found.report.passed
    for limits in found.own.values():
        assert limits.min_sqnr_db == pytest.approx(15.0 - MARGIN_DB, abs=0.2)
    assert len(found.own) == len(measured.tensors)
    assert found.tolerances.min_token_agreement is not None
    assert found.tolerances.min_token_agreement <= max(measured.generation.value / 4, 0.01)
    assert replace(found.tolerances, min_token_agreement=INT8.min_token_agreement) == INT8
    # Another device: noise of its own, up to the margin, and no further.
    for sqnr_db, passes in ((15.0, True), (10.0, True), (8.0, False), (3.0, False)):
        there = report(program, noisy(program, sqnr_db, seed=1), found.tolerances, own=found.own)
        assert {check.passed for check in there.tensors} == {passes}
    broken = report(program, noisy(program, 15.0, spoiled=True), found.tolerances, own=found.own)
    assert not broken.passed
    assert as_measured(measured).min_sqnr_db == pytest.approx(15.0, abs=0.2)
    assert as_measured(measured).paired[0].standard_error == 0.001


def test_an_output_that_is_near_keeps_the_limits_of_the_precision(program: Program) -> None:
    measured = report(program, noisy(program, 50.0), INT8, quality(0.0))
    far = replace(measured.tensors[2], errors=replace(measured.tensors[2].errors, sqnr_db=13.0), passed=False)
    near = replace(measured.tensors[3], errors=replace(measured.tensors[3].errors, sqnr_db=26.0))
    measured = replace(measured, tensors=(*measured.tensors[:2], far, near, *measured.tensors[4:]))
    found = settle(measured, INT8, TEXT, quality(0.0))
    assert found.own == {
        (far.case, far.step, far.output): Tolerance(min_sqnr_db=7.0),
        (near.case, near.step, near.output): Tolerance(min_sqnr_db=20.0),
    }
    assert found.report.passed
    assert settle(replace(measured, tensors=measured.tensors[:2]), INT8, TEXT, quality(0.0)).own == {}


def test_what_quality_does_not_excuse(program: Program) -> None:
    # Worse than the budget, however good the tensors.
    for engine, scores in ((noisy(program, 60.0), quality(0.11)), (noisy(program, 15.0), quality(float("nan")))):
        found = settle(report(program, engine, INT8, scores), INT8, TEXT, scores).report
        assert not found.passed
        assert any("ppl_increase is" in why and "± 0.001 over 9 samples" in why for why in found.failures)
    # Nothing but noise, and what is no number.
    for engine in (noisy(program, 0.5), noisy(program, 15.0, spoiled=True)):
        settled = settle(report(program, engine, INT8, quality(0.0)), INT8, TEXT, quality(0.0))
        assert not settled.report.passed
        assert {limits.min_sqnr_db for limits in settled.own.values()} == {1.0}


def test_where_tensors_decide(program: Program) -> None:
    fp32, good = TEXT.limits("fp32"), quality(0.0)
    for tolerances, precision, scores, workload in (
        (fp32, "fp32", good, TEXT),  # fp32 keeps its limits
        (INT8, "int8", Scores(), TEXT),  # no quality was measured
        (INT8, "int8", good, get_workload("gan")),
    ):
        measured = report(program, noisy(program, 15.0), tolerances, scores, precision=precision)
        assert settle(measured, tolerances, workload, scores) == Settled(report=measured, tolerances=tolerances)
        assert not measured.passed


def test_the_users_own_limits_stay(program: Program) -> None:
    own = export_recipe("lm", precision="int8", tolerance={"min_sqnr_db": 20.0, "min_token_agreement": 0.9}).tolerances
    measured = report(program, noisy(program, 15.0), own, quality(0.0))
    found = settle(measured, own, TEXT, quality(0.0))
    assert (found.own, found.tolerances) == ({}, own)
    assert not found.report.passed


def test_a_generation_that_failed_stays_failed(program: Program) -> None:
    measured = report(program, noisy(program, 50.0), INT8, quality(0.0))
    failed = replace(measured.generation, value=0.0, passed=False, reasons=("the engine failed",))
    found = settle(replace(measured, generation=failed), INT8, TEXT, quality(0.0)).report
    assert not found.passed
    assert found.generation.reasons == ("the engine failed",)


def test_limits_of_their_own_stand_in_the_manifest_and_are_checked_there() -> None:
    step = ReferenceStep(engine="model", inputs={}, outputs={"logits": "a.npy"}, min_sqnr_db={"logits": 9.0})
    assert step.min_sqnr_db == {"logits": 9.0}
    with pytest.raises(ConfigError, match="min_sqnr_db names 'other'"):
        replace(step, min_sqnr_db={"other": 9.0})
    for bad in (0.0, -1.0, 500.0, float("nan")):
        with pytest.raises(ConfigError, match="the limit min_sqnr_db is"):
            replace(step, min_sqnr_db={"logits": bad})
