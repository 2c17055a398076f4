"""The whole search on the shipped GAN and a tiny language model: what it ships keeps the budget and is proven to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from aigc_calibration.plan import SitePrecision, parse_plan
from aigc_export.cli import run
from aigc_export.line import quality as judged
from aigc_export.line.exporter import PLAN_FILE, SEARCH_FILE, export_model
from aigc_export.mixed_precision import candidates as candidates_module
from aigc_export.mixed_precision.candidates import Built
from aigc_export.mixed_precision.outcome import BudgetError
from aigc_export.mixed_precision.search import _is_needless
from aigc_export.mixed_precision.sensitivity import measure_sensitivity
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.proof.paired import PairedMetric

from ..conftest import recipe_of

pytestmark = pytest.mark.usefixtures("capture_once")


def auto(budget: str, folder: Path | None = None, **changes: object) -> ExportRecipe:
    search = SearchConfig(budgets=(parse_budget(budget),), folder=folder, samples=20, **changes)  # type: ignore[arg-type]
    return export_recipe("gan", precision="auto", quality_samples=20, calibration_samples=64, threads=1, search=search)


@pytest.mark.slow
def test_the_fewest_sites_in_float(tmp_path: Path) -> None:
    result = export_model(auto("psnr>=51", tmp_path / "s", objective="ops"), tmp_path / "out")
    found = result.search
    assert found is not None
    chosen = next(c for c in found.candidates if c.chosen)
    assert chosen.holds
    assert chosen.value >= 51
    by_float = {c.counts.get("float", 0): c for c in found.candidates if c.precision != "fp32"}
    fewer = [c for n, c in by_float.items() if n < chosen.counts.get("float", 0)]
    assert fewer, "a smaller number of float sites was really tried"
    assert not any(c.holds for c in fewer)
    assert len(found.kept) == chosen.counts["float"]
    assert all(why for why in found.kept.values())
    bundle = result.bundle
    plan = parse_plan(bundle.read(PLAN_FILE))
    assert plan.counts() == chosen.counts
    assert json.loads(bundle.read(SEARCH_FILE)) == json.loads((tmp_path / "s" / "search.json").read_text())
    assert (tmp_path / "s" / "pareto.svg").stat().st_size > 1000
    assert bundle.manifest.precision in {"mixed", "int8"}


@pytest.mark.slow
def test_a_search_counts_the_samples_it_calibrates_on(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    export_model(auto("psnr>=30"), tmp_path / "out", progress=lambda *step: steps.append(step))
    assert {total for what, _, total in steps if what == "ranges"} == {64}
    assert ("ranges", 64, 64) in steps


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export_model(auto("psnr>=50", tmp_path / "s"), tmp_path / "a")

    def again(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("aigc_calibration.search.workers.measure_noise", again)
    monkeypatch.setattr(candidates_module, "bench_step", again)
    monkeypatch.setattr(candidates_module.CandidateEvaluator, "_open", again)
    second = export_model(auto("psnr>=50", tmp_path / "s"), tmp_path / "b")
    assert first.search is not None
    assert second.search is not None
    assert second.search.candidates == first.search.candidates
    assert second.search.reused > 8
    assert Bundle.open(tmp_path / "a").read("model.onnx") == Bundle.open(tmp_path / "b").read("model.onnx")


@pytest.mark.slow
def test_two_processes_find_the_same(tmp_path: Path) -> None:
    plans = [
        parse_plan(export_model(auto("psnr>=49", objective="ops", jobs=n), tmp_path / str(n)).bundle.read(PLAN_FILE))
        for n in (1, 2)
    ]
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_a_budget_that_only_fp32_keeps(tmp_path: Path) -> None:
    """Then a sentence says of every site what low precision would have cost."""
    result = export_model(auto("psnr>=100"), tmp_path / "out")
    assert result.search is not None
    assert result.bundle.manifest.precision == "fp32"
    assert "fp32" in result.search.verdict
    assert "no mix" in result.search.verdict
    assert {"project", "to_image", "blocks.0.1", "blocks.1.1"} == result.search.kept.keys()
    assert all("of all noise" in why for why in result.search.kept.values())


def test_a_loose_budget_can_be_shipped(tmp_path: Path) -> None:
    """Below the limit of a plain int8 bundle, 42 dB: the user allows it."""
    recipe = auto("psnr>=20", objective="ops")  # by time, fp32 wins where there is no VNNI
    assert recipe.quantization is not None
    rough = replace(recipe.quantization, ranges="percentile", percentile=80.0, affine=False)
    result = export_model(replace(recipe, quantization=rough), tmp_path / "out")
    assert result.search is not None
    chosen = next(c for c in result.search.candidates if c.chosen)
    assert result.bundle.manifest.tolerances.min_psnr_db == pytest.approx(10)
    assert 20 <= chosen.value < 42


@pytest.mark.slow
def test_a_search_by_size_tries_the_plain_small_precisions(tmp_path: Path) -> None:
    result = export_model(auto("psnr>=80", objective="size"), tmp_path / "out")
    found = result.search
    assert found is not None
    sizes = {c.name: c.size_bytes for c in found.candidates}
    assert {"fp32", "int8", "fp16", "int8-weight", "int4"} <= sizes.keys()
    chosen = next(c for c in found.candidates if c.chosen)
    assert chosen.name == "fp16"  # 88 dB in half the bytes
    assert chosen.size_bytes < 0.6 * sizes["fp32"]
    assert result.bundle.manifest.precision == "fp16"


def test_a_budget_that_nothing_keeps(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"not even fp32 keeps the budget: psnr_db 1\d\d") as caught:
        export_model(auto("psnr>=390"), tmp_path / "out")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mix_that_is_no_faster_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Level:
        median_ms = 1.0

    monkeypatch.setattr(candidates_module, "bench_step", lambda *_, **__: Level)
    result = export_model(auto("psnr>=51"), tmp_path / "out")
    assert result.search is not None
    assert result.search.verdict.startswith(("fp32", "int8"))
    assert result.bundle.manifest.precision != "mixed"


@pytest.mark.slow
def test_the_published_engine_must_keep_the_budget_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worse = Scores(paired=(PairedMetric(name="psnr_db", value=48.9, standard_error=0.1, samples=20),))
    monkeypatch.setattr(judged, "make_evaluator", lambda *_, **__: lambda _: worse)
    with pytest.raises(BudgetError, match=r"misses the budget that the search had met: psnr_db 48\.9"):
        export_model(auto("psnr>=49", objective="ops"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_language_model_whose_8_bits_keep_the_budget_looks_for_4(checkpoints: Path, tmp_path: Path) -> None:
    recipe = recipe_of("lm", checkpoints / "lm", precision="auto", calibration_samples=16)
    assert recipe.search is not None
    recipe = replace(recipe, search=replace(recipe.search, samples=8, budgets=(parse_budget("ppl<=+5%"),)))
    result = export_model(recipe, tmp_path / "out")
    assert result.search is not None
    assert list(result.search.pairs) == ["int4-weight / int8-weight"]
    names = [c.name for c in result.search.candidates]
    assert {"fp32", "int8-weight", "all int4", "all int8-weight"} & set(names) >= {"fp32", "int8-weight", "all int4"}
    assert result.report.passed


@pytest.mark.parametrize(
    ("low", "value", "needless"), [("int8-weight", 0.01, True), ("int8-weight", 0.2, False), ("int8", 0.01, False)]
)
def test_a_pair_with_float_is_needless_where_weights_alone_keep_the_budget(
    low: SitePrecision, value: float, needless: bool
) -> None:
    """Activations in 8 bits may be slower than float ones, so that a mix of them may be faster."""
    metric = PairedMetric(name="ppl_increase", value=value, standard_error=0.0, samples=8)
    built = Built(name=low, precision=low, base=low, graph=ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))
    config = SearchConfig(budgets=(parse_budget("ppl<=+5%"),), samples=8)
    assert _is_needless((low, "float"), [(built, Scores(paired=(metric,)))], config) is needless
    assert not _is_needless(("int4-weight", "int8-weight"), [(built, Scores(paired=(metric,)))], config)


def test_sensitivity_sees_what_dominates() -> None:
    recipe = auto("psnr>=45")
    found = measure_sensitivity(recipe)
    assert found.sites[0].module == "to_image"
    assert sum(s.share for s in found.sites) == pytest.approx(1.0)
    assert [s.noise for s in found.sites] == sorted((s.noise for s in found.sites), reverse=True)
    with pytest.raises(UnknownNameError, match="low precision"):
        measure_sensitivity(recipe, low="int3")


def test_a_plain_precision_has_no_search() -> None:
    with pytest.raises(ConfigError, match="go with --precision auto"):
        export_recipe("gan", precision="int8", search=auto("psnr>=45").search)


# The command line


BAD = [
    (["--budget", "psnr>=45"], "a budget for a gan model in fp32, which is held to limits"),
    (["--jobs", "2", "--precision", "int8"], "--jobs without a search"),
    (["--precision", "auto", "--budget", "pssnr>=45"], "Did you mean 'psnr'?"),
    (["--precision", "auto", "--budget", "ppl<=1%"], "which is not measured for this model"),
    (["--precision", "auto", "--objective", "beauty"], "unknown objective 'beauty'"),
    (["--precision", "auto", "--jobs", "2", "--dask", "tcp://127.0.0.1:9"], "both --jobs and --dask"),
    (["--precision", "auto", "--jobs", "0"], "x>=1"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "gan", "-o", str(tmp_path / "out"), "--quality-samples", "4", *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_export_auto_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["export", "gan", "--precision", "auto", "--calibration-samples", "64", "--quality-samples", "20"]
    assert run([*common, "--budget", "psnr>=49", "--budget", "class_accuracy>=-5%", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for expected in ("auto · psnr>=49, class_accuracy>=-5%", "chosen", "over fp32", "published"):
        assert expected in printed
    assert {p.name for p in (tmp_path / "out.search").iterdir()} == {"journal.jsonl", "search.json", "pareto.svg"}
    assert run([*common, "--budget", "psnr>=390", "-o", str(tmp_path / "no")]) == 3
    assert "the nearest result is fp32 itself" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_sensitivity_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["sensitivity", "gan", "--calibration-samples", "32"]
    assert run([*common, "--plot", str(tmp_path / "s.svg"), "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "the 2 noisiest of 4 sites" in printed
    assert "to_image" in printed
    assert (tmp_path / "s.svg").exists()
    assert run([*common, "--json", "--low", "int4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pair"] == "int4-weight / int8-weight"
    assert {s["op_type"] for s in found["sites"]} == {"Conv", "Gemm"}
    assert run([*common, "--plot", str(tmp_path / "s.bmp")]) == 2
    assert "no plot in format" in capsys.readouterr().err


@pytest.mark.parametrize("split", [False, True])
def test_sensitivity_of_branches_each_with_a_range(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ExportRecipe] = []

    def stop(recipe: ExportRecipe, **_: object) -> None:
        seen.append(recipe)
        raise ConfigError("enough")

    monkeypatch.setattr("aigc_export.mixed_precision.sensitivity.measure_sensitivity", stop)
    assert run(["sensitivity", "unet", *(["--split-skips"] if split else [])]) == 2
    assert [r.quantization is not None and r.quantization.split_skips for r in seen] == [split]
