"""What is chosen of what was run, and the words for it."""

from __future__ import annotations

import pytest

from aigc_export.mixed_precision.part_verdict import PartOption, Tried, candidate_reports, choose, kept_parts
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.search import Objective
from aigc_models.evaluation.paired import Scores
from aigc_runtime.proof.paired import PairedMetric

BUDGET = parse_budget("psnr>=30")


def scores(db: float) -> Scores:
    return Scores(paired=(PairedMetric(name="psnr_db", value=db, standard_error=0.0, samples=4),))


def option(precision: str, cost: float, *, part: str = "unet", db: float = 60, noise: float = 1.0) -> PartOption:
    return PartOption(
        part=part,
        precision=precision,
        cost=cost,
        noise=noise,
        runs=50,
        ms=cost,
        saved_ms=0.0,
        saved_ms_error=0.0,
        size_bytes=int(1000 * cost),
        float_sites=int(cost),
        scores=scores(db),
    )


def tried(name: str, cost: float, db: float) -> Tried:
    return Tried(options={"unet": option(name, cost), "vae": option("fp32", 10, part="vae")}, scores=scores(db))


@pytest.mark.parametrize(
    ("objective", "found", "name", "told"),
    [
        ("size", [("int8", 20, 29.9), ("fp16", 50, 60)], "unet=fp16", "55% of the bytes of fp32, with psnr_db 60"),
        ("size", [("int8", 20, 31), ("fp16", 50, 60)], "unet=int8", "27% of the bytes of fp32"),
        ("size", [("int8", 49.9, 31), ("fp16", 50, 60)], "unet=fp16", "55% of the bytes"),  # nearly as small
        ("size", [("int8", 99.5, 31)], "fp32", "nothing lower keeps the budget and is better in size"),
        ("latency", [("int8", 45, 31)], "unet=int8", "2.00x as fast as fp32"),
        ("latency", [("int8", 98, 31)], "fp32", "nothing lower keeps the budget and is better in latency"),
        ("latency", [("int8", 45, 29)], "fp32", "fp32: nothing lower keeps the budget, psnr_db 140 (psnr>=30)"),
        ("ops", [("int8", 0, 31)], "unet=int8", "10 of 110 sites in float"),
        ("latency", [], "fp32", "no part can be in a lower precision"),
    ],
)
def test_the_cheapest_that_keeps_the_budget(
    objective: Objective, found: list[tuple[str, float, float]], name: str, told: str
) -> None:
    all_tried = [tried("fp32", 100, 140), *(tried(*one) for one in found)]
    chosen, verdict = choose(all_tried, (BUDGET,), BUDGET, objective)
    assert chosen.name == name
    assert told in verdict
    assert verdict.startswith(f"{name}: ")
    reports = candidate_reports(all_tried, chosen, (BUDGET,))
    assert [one.name for one in reports if one.chosen] == [name]
    assert next(one for one in reports if one.name == "fp32").speedup == 1.0
    assert [one.latency_ms for one in reports] == sorted(one.latency_ms for one in reports)


def test_a_part_that_costs_nothing_takes_no_time() -> None:
    idle = Tried(options={"unet": option("fp32", 0)}, scores=scores(140))
    (report,) = candidate_reports([idle], idle, (BUDGET,))
    assert (report.latency_ms, report.speedup) == (0, 1.0)


def test_why_a_part_is_not_lower() -> None:
    own = {
        "unet": [
            option("fp32", 100, noise=0),
            option("int8", 20, db=25),
            option("int4", 10, db=35),
            option("fp16", 99.9, db=70),
            option("int8-weight", 100, db=50),
            option("fp8", 120),
        ]
    }
    chosen = Tried(options={"unet": own["unet"][0]}, scores=scores(140))
    kept = kept_parts(own, {"unet": ["bf16 is not possible: no kernel"]}, chosen, (BUDGET,))
    assert kept["unet"] == (
        "fp32: int8 alone gives psnr_db 25 (psnr>=30), which misses the budget; "
        "int4 alone gives psnr_db 35 (psnr>=30); nothing with it that was run costs less and keeps the budget; "
        "fp16 would save less than 1% of the whole, and alone give psnr_db 70 (psnr>=30); "
        "int8-weight would cost as much, and give psnr_db 50 (psnr>=30); fp8 costs more; "
        "bf16 is not possible: no kernel"
    )
    lowest = Tried(options={"unet": own["unet"][2]}, scores=scores(35))
    assert kept_parts(own, {}, lowest, (BUDGET,)) == {}
