"""The option under which what was measured would be published."""

from __future__ import annotations

from aigc_export.recipes.accepting import accepting_budget, accepting_option
from aigc_export.recipes.budget import parse_budget
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.proof.paired import PairedMetric

IMAGES, TEXT = get_workload("text_to_image"), get_workload("text")


def measured(name: str, value: float, error: float = 0.0) -> PairedMetric:
    return PairedMetric(name=name, value=value, standard_error=error, samples=4)


def test_a_wider_budget_in_place_of_the_missed_one() -> None:
    scores = Scores(paired=(measured("psnr_db", 23.46, 0.5), measured("step_sqnr_db", 21.0)))
    budgets = [parse_budget("psnr>=30"), parse_budget("step_sqnr>=20")]
    option = accepting_option(budgets, scores, IMAGES)
    assert option == '--budget "psnr>=22" --budget "step_sqnr>=20"'
    wider = [parse_budget(text) for text in option.split('"')[1::2]]
    assert all(budget.holds(scores) for budget in wider)


def test_what_no_budget_accepts() -> None:
    budget = parse_budget("class_accuracy>=99%")
    result = QualityResult(metric="class_accuracy", reference=0.9, bundle=0.8, higher_is_better=True)
    assert accepting_option([budget], Scores(quality=(result,)), get_workload("gan")) is None
    assert accepting_option([parse_budget("psnr>=30")], Scores(paired=(measured("psnr_db", -3),)), IMAGES) is None
    kl = next(measure for measure in TEXT.measures if measure.budget_name == "kl")
    assert accepting_budget(measured(kl.name, 0.0123), kl) == "kl<=0.013"
    assert accepting_budget(measured(kl.name, 1000.0), kl) is None
    ppl = next(measure for measure in TEXT.measures if measure.budget_name == "ppl")
    assert accepting_budget(measured(ppl.name, 0.0123), ppl) == "ppl<=+1.3%"
