"""Budgets: what can be written, what holds, and what a measured mix says about the noise that is allowed."""

from __future__ import annotations

import math

import pytest

from aigc_export.recipes.budget import allowed_noise, check_measures, holds, parse_budget, shown
from aigc_export.recipes.tolerances import loosened
from aigc_export.workloads import WORKLOADS, get_workload
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.proof.paired import PairedMetric


def scores(**values: float) -> Scores:
    return Scores(paired=tuple(PairedMetric(name=n, value=v, standard_error=0.0, samples=9) for n, v in values.items()))


def quality(metric: str, reference: float, bundle: float) -> Scores:
    result = QualityResult(metric=metric, reference=reference, bundle=bundle, higher_is_better=metric.startswith("c"))
    return Scores(quality=(result,))


@pytest.mark.parametrize(
    ("text", "made", "kept"),
    [
        ("ppl<=+0.5%", scores(ppl_increase=0.0049), True),
        ("ppl<=0.5%", scores(ppl_increase=0.0051), False),
        ("ppl<=+0.5%", scores(ppl_increase=-0.1), True),
        ("psnr>=45", scores(psnr_db=45.0), True),
        (" psnr >= 45.5 ", scores(psnr_db=45.4), False),
        ("psnr>=45", scores(psnr_db=math.nan), False),
        ("ppl<=1%", scores(ppl_increase=math.nan), False),
        ("top1>=99%", scores(top1_agreement=0.991), True),
        ("step_sqnr>=2e1", scores(step_sqnr_db=19.9), False),
        ("class_accuracy>=-1%", quality("class_accuracy", 0.99, 0.985), True),
        ("class_accuracy>=-1%", quality("class_accuracy", 0.99, 0.97), False),
        ("class_accuracy>=0.98", quality("class_accuracy", 0.99, 0.97), False),
        ("frechet_distance<=+5%", quality("frechet_distance", 10.0, 10.4), True),
        ("class_accuracy>=95%", quality("class_accuracy", 0.99, 0.96), True),
        ("class_accuracy>=95%", quality("class_accuracy", 0.99, 0.94), False),
        ("frechet_distance<=12", quality("frechet_distance", 10.0, 12.1), False),
    ],
)
def test_what_holds(text: str, made: Scores, kept: bool) -> None:
    budget = parse_budget(text)
    assert budget.holds(made) is kept
    assert holds([budget], made) is kept
    assert text.strip() in shown([budget], made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "psnr",
        "psnr=45",
        "psnr>45",
        "psnr>=",
        "psnr>=much",
        "psnr>=45dB",
        "psnr>=nan",
        "45<=psnr",
        "psnr>=1e999",
        "psnr>=\uff14\uff15",
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_budget(text)


def test_wrong_names_and_directions() -> None:
    with pytest.raises(UnknownNameError, match="unknown measure in a budget 'pssnr'"):
        parse_budget("pssnr>=45")
    with pytest.raises(ConfigError, match="from the wrong side"):
        parse_budget("psnr<=45")
    with pytest.raises(ConfigError, match="from the wrong side"):
        parse_budget("ppl>=1%")
    with pytest.raises(ConfigError, match="needs a percent sign"):
        parse_budget("ppl<=4.1")
    with pytest.raises(ConfigError, match="is in decibels"):
        parse_budget("psnr>=45%")
    with pytest.raises(ConfigError, match="which is not measured for this model"):
        parse_budget("psnr>=45").holds(scores(ppl_increase=0.0))


def test_the_noise_that_is_allowed() -> None:
    psnr, ppl = parse_budget("psnr>=45"), parse_budget("ppl<=+0.1%")
    assert allowed_noise([psnr], scores(psnr_db=35.0), 1e-3) == pytest.approx(1e-4)
    assert allowed_noise([psnr], scores(psnr_db=48.0), 1e-3) == pytest.approx(1.995e-3, rel=1e-3)
    assert allowed_noise([ppl], scores(ppl_increase=0.004), 1e-3) == pytest.approx(2.5e-4)
    assert allowed_noise([ppl], scores(ppl_increase=-0.001), 1e-3) is None
    both = scores(psnr_db=35.0, ppl_increase=0.1)
    assert allowed_noise([psnr, ppl], both, 1e-3) == pytest.approx(1e-5)
    assert allowed_noise([parse_budget("class_accuracy>=-1%")], quality("class_accuracy", 1.0, 0.9), 1e-3) is None


def test_defaults_can_be_read() -> None:
    assert {kind: parse_budget(workload.budget).measure for kind, workload in WORKLOADS.items()} == {
        "text": "ppl_increase",
        "diffusion": "psnr_db",
        "gan": "psnr_db",
        "tensors": "output_sqnr_db",
    }


def test_a_percent_sign_alone_is_a_share_and_not_of_everything() -> None:
    with pytest.raises(ConfigError, match="is no share") as err:
        parse_budget("frechet_distance<=5%")
    assert "frechet_distance<=+5%" in str(err.value.hint)


@pytest.mark.parametrize(("kind", "text"), [("gan", "ppl<=+1%"), ("gan", "step_sqnr>=20"), ("text", "psnr>=40")])
def test_a_measure_that_the_kind_has_not(kind: str, text: str) -> None:
    with pytest.raises(ConfigError, match="which is not measured for this model"):
        check_measures([parse_budget(text)], get_workload(kind))
    check_measures([parse_budget(get_workload(kind).budget)], get_workload(kind))


def test_a_looser_budget_loosens_every_limit_by_as_much_noise() -> None:
    limits = get_workload("gan").tolerances["int8"]
    assert limits.min_psnr_db == 42
    found = loosened(limits, [parse_budget("psnr>=32")])
    assert found.min_psnr_db == pytest.approx(22)  # of a few pictures; the average is held against the budget
    assert found.tensor.min_sqnr_db == pytest.approx(12)
    assert found.max_quality_drop == pytest.approx(0.5)
    assert loosened(limits, [parse_budget("psnr>=52")]) is limits
    near = loosened(limits, [parse_budget("psnr>=43")])
    assert near.min_psnr_db == pytest.approx(33)
    assert near.max_quality_drop == limits.max_quality_drop
    text = get_workload("text").tolerances["int8"]
    assert text.max_quality_drop == 0.003
    found = loosened(text, [parse_budget("ppl<=+3%")])
    assert found.max_quality_drop == pytest.approx(0.03)
    assert found.min_token_agreement == pytest.approx(0.25 / 30)
    assert found.tensor.min_sqnr_db == pytest.approx(24 - 14.77, abs=0.01)
    assert loosened(text, [parse_budget(get_workload("text").budget)]) is text
