"""Budgets: what can be written, what holds, and what a measured mix says about the noise that is allowed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from aigc_export.recipes.budget import allowed_noise, check_measures, holds, parse_budget, shown
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.tolerances import loosened, with_budgets
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
        ("class_accuracy>=-1%", quality("class_accuracy", 0.0, 0.0), True),
        ("frechet_distance<=+5%", quality("frechet_distance", 0.0, 0.1), False),
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
        "upscale": "psnr_db",
        "text_to_image": "psnr_db",
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
    assert loosened(text, [parse_budget(get_workload("text").budget)]) is text


def test_budgets_take_the_place_of_the_limits_on_quality_alone() -> None:
    workload = get_workload("text")
    limits = workload.tolerances["int8"]
    found = with_budgets(limits, [parse_budget("ppl<=+3%")], workload)
    assert found == replace(limits, max_quality_drop=0.03)
    found = with_budgets(limits, [parse_budget("kl<=0.02"), parse_budget("top1>=95%")], workload)
    assert found == replace(limits, max_quality_drop=None, max_kl=0.02, min_top1_agreement=0.95)
    # What no limit holds is checked beside them.
    assert with_budgets(limits, [parse_budget("bits_per_byte<=+1%")], workload) is limits


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (["ppl<=+3%", "ppl<=+5%"], "two budgets set the limit max_quality_drop"),
        (["psnr>=45"], "which is not measured for this model"),
        (["kl<=2%"], "kl is no share"),
        (["kl<=+2%"], "kl is not relative to PyTorch's own, which has none\nwrite 'kl<=0.02'"),
        (["top1>=-1%"], "top1 is not relative to PyTorch's own, which has none\nwrite 'top1>=95%'"),
        (["top1>=0"], "min_top1_agreement is 0"),
        (["ppl<=-1%"], "max_quality_drop is -0.01"),
        (["kl>=0.02"], "from the wrong side"),
    ],
)
def test_budgets_that_are_refused(budget: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_recipe("lm", precision="int8", budget=budget)


def test_budgets_of_a_recipe() -> None:
    recipe = export_recipe("lm", precision="int4", budget=["kl<=0.02", "top1>=0.9"])
    assert recipe.tolerances.set_by_user == ("max_kl", "min_top1_agreement")
    assert (recipe.tolerances.max_kl, recipe.tolerances.max_quality_drop) == (0.02, None)
    assert export_recipe("lm", budget=["ppl<=+1%"]).tolerances.tensor == get_workload("text").limits("fp32").tensor
    auto = export_recipe("lm", precision="auto", budget=["ppl<=+1%"])
    assert auto.search is not None
    assert [b.text for b in auto.search.budgets] == ["ppl<=+1%"]
    with pytest.raises(ConfigError, match="a budget for a gan model in int8, which is held to limits"):
        export_recipe("gan", precision="int8", budget=["psnr>=40"])
    with pytest.raises(ConfigError, match="a budget, and no quality is measured"):
        export_recipe("lm", precision="int8", budget=["ppl<=+1%"], quality_samples=0)
    with pytest.raises(ConfigError, match="both a budget and the limit max_kl were given"):
        export_recipe("lm", precision="int8", budget=["kl<=1"], tolerance={"max_kl": 2.0})
