"""Which sites a search leaves in low precision, by runs that cost nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.mixed_precision import mixes
from aigc_export.mixed_precision.mixes import Mixes
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.search import SearchConfig
from aigc_models.evaluation.paired import Scores
from aigc_runtime.proof.paired import PairedMetric

NOISE = {"head": 9.0, "a": 2.0, "b": 1.5, "c": 1.0, "d": 0.4}
SAVED = {"head": 90.0, "a": 2.0, "b": 1.6, "c": 1.2, "d": 0.5}
"""The head saves most for its noise, so that it would be the last to leave low precision."""


def site(node: str, noise: float) -> Sensitivity:
    return Sensitivity(
        node=node,
        op_type="MatMul",
        module=node,
        noise=noise,
        share=0.1,
        saved_ms=SAVED[node],
        saved_ms_error=0.0,
        saved_bytes=1,
    )


def run(
    monkeypatch: pytest.MonkeyPatch, noise: Mapping[str, float], harm: Mapping[str, float], *, high: str | None
) -> tuple[list[list[str]], list[list[str]]]:
    """What stayed in high precision in each mix that was run, and in each that keeps the budget of 1 %."""
    tried: list[list[str]] = []

    def mix(_pair: object, kept_high: dict[str, str], *_: object) -> SimpleNamespace:
        return SimpleNamespace(name="mix", kept=sorted(kept_high))

    def evaluate(built: SimpleNamespace) -> Scores:
        tried.append(built.kept)
        value = sum(n for node, n in harm.items() if node not in built.kept)
        return Scores(paired=(PairedMetric(name="ppl_increase", value=value, standard_error=0, samples=1, data="x"),))

    monkeypatch.setattr(mixes, "build_mix", mix)
    pair: Any = SimpleNamespace(name="int4 / int8", high=high, together=tuple((node,) for node in noise))
    evaluator: Any = SimpleNamespace(evaluate=evaluate)
    config = SearchConfig(budgets=(parse_budget("ppl<=+1%"),))
    executed: Any = None
    found = Mixes(
        pair, [site(*one) for one in noise.items()], {}, config, evaluator, executed, lambda *_: None
    ).descend()
    built: list[tuple[Any, Scores]] = list(found)
    assert len({tuple(kept) for kept in tried}) == len(tried), "no mix is run twice"
    return tried, [one.kept for one, scores in built if scores.paired[0].value <= 0.01]


def test_a_site_that_alone_spends_the_budget_is_gone_around(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, kept = run(monkeypatch, NOISE, {node: 0.002 * noise for node, noise in NOISE.items()}, high="int8-weight")
    assert tried[:3] == [[], ["a", "b", "c", "head"], ["head"]]
    assert ["head"] in kept


@pytest.mark.parametrize("high", ["int8-weight", None])
def test_one_whose_noise_says_too_little_is_gone_around_once_it_has_missed_alone(
    monkeypatch: pytest.MonkeyPatch, high: str | None
) -> None:
    noise = {**NOISE, "head": 1.0}
    harm = {node: 0.002 * one for node, one in NOISE.items()}
    tried, kept = run(monkeypatch, noise, harm, high=high)
    assert tried[:3] == [[], ["a", "b", "c", "d"], ["head"]]  # the head alone, which misses
    assert ["head"] in kept


def test_where_nothing_fits_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, kept = run(monkeypatch, NOISE, dict.fromkeys(NOISE, 1.0), high="int8-weight")
    assert kept == [sorted(NOISE)]
    assert len(tried) < 2 ** len(NOISE)
