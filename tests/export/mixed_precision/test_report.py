"""The Pareto front, and plots that can be read back."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.mixed_precision import plots
from aigc_export.mixed_precision.plots import pareto_plot, plot_format, sensitivity_plot
from aigc_export.mixed_precision.report import CandidateReport, SearchReport, pareto_front
from aigc_export.recipes.budget import parse_budget
from aigc_models.evaluation.paired import Scores
from aigc_runtime.errors import ConfigError, EngineMissingError

points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(points)
def test_the_front_is_what_nothing_beats(found: list[tuple[int, int, int]]) -> None:
    front = pareto_front([tuple(map(float, p)) for p in found])
    assert any(front)
    for point, there in zip(found, front, strict=True):
        beaten = [q for q in found if q != point and all(a <= b for a, b in zip(q, point, strict=True))]
        assert there is not bool(beaten)


def candidate(name: str, value: float, ms: float, *, chosen: bool = False) -> CandidateReport:
    return CandidateReport(
        name=name,
        precision="int8",
        counts={"int8": 3},
        scores=Scores(),
        value=value,
        holds=value >= 45,
        latency_ms=ms,
        speedup=1.0,
        size_bytes=int(ms * 1e6),
        pareto=True,
        chosen=chosen,
    )


def report() -> SearchReport:
    return SearchReport(
        model="unet",
        target="ort-cpu",
        objective="latency",
        budgets=(parse_budget("psnr>=45"),),
        verdict="all int8 keeps it",
        candidates=(
            candidate("all int8", 46.0, 1.0, chosen=True),
            candidate("bad", 20.0, 0.9),
            candidate("fp32", 140, 2),
        ),
        pairs={},
        kept={},
        evaluated=3,
        reused=0,
        seconds=1.0,
    )


def sites() -> tuple[Sensitivity, ...]:
    return tuple(
        Sensitivity(
            node=f"n{i}",
            op_type="Conv",
            module=f"block.{i}",
            noise=10.0**-i,
            share=0.5,
            saved_ms=0.1,
            saved_ms_error=0.01,
            saved_bytes=7,
        )
        for i in range(1, 60)
    )


@pytest.mark.slow
def test_plots_are_drawn_and_the_same_again() -> None:
    for drawn in (pareto_plot(report()), sensitivity_plot(sites(), "title")):
        assert ET.fromstring(drawn).tag.endswith("svg")
    assert pareto_plot(report()) == pareto_plot(report())
    assert pareto_plot(report(), kind="png").startswith(b"\x89PNG")
    assert json.loads(report().dump())["verdict"] == "all int8 keeps it"


def test_formats() -> None:
    assert plot_format(".SVG") == "svg"
    with pytest.raises(ConfigError, match=r"no plot in format '\.bmp'"):
        plot_format(".bmp")


def test_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(plots, "import_module", missing)
    with pytest.raises(EngineMissingError, match=r"pip install 'aigc-export\[plot\]'"):
        pareto_plot(report())
