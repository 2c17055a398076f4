"""Too few samples: what is measured between their halves, and when it is warned of, for every kind of precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.config import QuantConfig
from aigc_calibration.histogram import Histogram
from aigc_calibration.plan import PLAN_VERSION, QuantizationPlan, SitePrecision, TensorPlan
from aigc_export.line.calibrator import calibrate_model
from aigc_export.line.exporter import export_model
from aigc_export.prepare import prepare as front
from aigc_export.prepare.stability import MIN_ROWS, UNSTABLE, UNSTABLE_EXTREME, instability_warning, stability
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.search import SearchConfig
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.tensors import Array

from ..conftest import recipe_of, tiny_gan, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")
LOOSE = Tolerances(tensor=Tolerance(min_sqnr_db=5.0), min_token_agreement=1e-9, min_psnr_db=5.0, max_quality_drop=None)
"""Tiny untrained models on few samples: how good they are is not the question here."""
CONFIG = QuantConfig()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints; the generator's convolutions have 8-bit kernels."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "lm", "lm")
    write_checkpoint(folder / "gan", "gan", make=lambda: tiny_gan(image_size=16, upsampling="upsample_conv"))
    return folder


# Known answers


def seen_of(first: Array, second: Array, rows: int = 1000) -> Statistics:
    splits = (Histogram(), Histogram())
    for half, values in zip(splits, (first, second), strict=True):
        half.update(values)
    return Statistics(tensors={"x": TensorStatistics(splits=splits)}, samples=rows, batches=9, samples_sha256="")


def plan_of(precision: SitePrecision, tensors: tuple[TensorPlan, ...] = ()) -> QuantizationPlan:
    return QuantizationPlan(
        version=PLAN_VERSION, graph_sha256="", precision=precision, transforms=(), ops=(), tensors=tensors
    )


def ranged(instability: float) -> QuantizationPlan:
    return plan_of("int8", (TensorPlan(name="x", amax=1.0, method="minmax", instability=instability),))


UNIFORM = np.linspace(-1, 1, 20_001, dtype=np.float32)
MINMAX = QuantConfig(ranges="minmax")


def test_a_range_that_costs_nothing_is_not_warned_of() -> None:
    # One number in 40,000 lies outside the range of the second half, and is clipped by 20 %: hardly an error in all.
    inner = UNIFORM[np.abs(UNIFORM) < 0.9]
    outlier = np.append(inner, np.float32(1.0))
    assert instability_warning(ranged(0.1), seen_of(outlier, inner), MINMAX) == ""


def test_a_range_is_warned_of_by_its_cost() -> None:
    # The second half's range clips a third of the first half's numbers.
    told = instability_warning(ranged(1 / 3), seen_of(UNIFORM, UNIFORM * np.float32(2 / 3)), MINMAX)
    assert told.startswith("ranges change from one half of the samples to the other, 'x' by 33%: for 1 of 1 one half")
    assert told.endswith("more: give more samples")
    # Steps of 1/127: an error of 1 / (127 sqrt(12)) without clipping; clipped numbers are off by 1/6 on average.
    cost = int(told.split("'x' ")[-1].split("%")[0]) / 100
    clipped = np.abs(np.concatenate([UNIFORM, UNIFORM * 2 / 3])) - 2 / 3
    expected = np.sqrt(np.mean(np.clip(clipped, 0, None) ** 2) + (2 / 3 / 127) ** 2 / 12) * 127 * np.sqrt(12) - 1
    assert cost == pytest.approx(expected, rel=0.05)


def test_sixteen_bits_are_judged_by_what_is_left_free() -> None:
    assert UNSTABLE_EXTREME == 0.75
    tight, wide = seen_of(UNIFORM, UNIFORM * np.float32(0.3)), seen_of(UNIFORM, UNIFORM * np.float32(0.2))
    assert stability(plan_of("fp16"), tight)[0].instability == pytest.approx(0.7)
    assert instability_warning(plan_of("fp16"), tight, CONFIG) == ""
    told = instability_warning(plan_of("bf16"), wide, CONFIG)
    assert "'x' by 80%, 1 of 1 by more than 75%: give more samples" in told


@pytest.mark.parametrize("precision", ["int8-weight", "int4-weight"])
def test_weights_alone_are_judged_by_second_moments(precision: SitePrecision) -> None:
    near, far = seen_of(UNIFORM, UNIFORM * np.float32(0.9)), seen_of(UNIFORM, UNIFORM * np.float32(0.8))
    # 1/sqrt(3) and 0.9/sqrt(3), relative to the root of the mean of both squares.
    assert stability(plan_of(precision), near)[0].instability == pytest.approx(0.1 / np.sqrt(1.81 / 2), rel=1e-3)
    assert instability_warning(plan_of(precision), near, CONFIG) == ""
    assert f"'x' by 22%, 1 of 1 by more than {UNSTABLE:.0%}" in instability_warning(plan_of(precision), far, CONFIG)


@pytest.mark.parametrize("plan", [ranged(0.0), plan_of("fp16"), plan_of("int4-weight")])
def test_few_rows_are_warned_of_however_alike_the_halves(plan: QuantizationPlan) -> None:
    assert instability_warning(plan, seen_of(UNIFORM, UNIFORM, MIN_ROWS), MINMAX) == ""
    told = instability_warning(plan, seen_of(UNIFORM, UNIFORM, MIN_ROWS - 1), MINMAX)
    assert told.startswith("39 rows of samples are few; ranges change")
    assert "'x' by 0%: give at least 40" in told


def test_one_sample_has_nothing_to_be_compared_with() -> None:
    assert "there is one sample" in instability_warning(ranged(1.0), seen_of(UNIFORM, UNIFORM[:0], 1), MINMAX)


def test_a_plan_that_needed_no_samples_has_no_warning() -> None:
    none = Statistics(tensors={}, samples=8, batches=1, samples_sha256="")
    assert instability_warning(plan_of("int8-weight"), none, CONFIG) == ""


# The line


def uneven(path: Path, loud: float) -> dict[str, str]:
    """Latents of which every other one is `loud` times as large."""
    latents = np.random.default_rng(0).standard_normal((64, 6), dtype=np.float32)
    latents[1::2] *= np.float32(loud)
    np.savez(path, latents=latents, class_labels=np.arange(64) // 2 % 10)
    return {"precision": "int8", "calibration_data": str(path)}


def test_unstable_ranges_are_warned_of_and_measured(models: Path, tmp_path: Path) -> None:
    def tell(name: str, what: str) -> None:
        stages.append((name, what))

    stages: list[tuple[str, str]] = []
    recipe = recipe_of("gan", models / "gan", tolerances=LOOSE, **uneven(tmp_path / "uneven.npz", 8.0))
    found = calibrate_model(recipe, tmp_path / "c.npz", stage=tell)
    worst = found.ranges[0]
    assert worst.instability > UNSTABLE
    assert found.warnings == tuple(what for name, what in stages if name == front.WARNING)
    assert f"{worst.name!r} by {worst.instability:.0%}: " in found.warnings[0]
    stages.clear()
    exported = export_model(recipe, tmp_path / "out", stage=tell)
    assert [what for name, what in stages if name == front.WARNING] == list(found.warnings) == list(exported.warnings)


def test_enough_samples_are_not_warned_of(models: Path, tmp_path: Path) -> None:
    recipe = recipe_of("gan", models / "gan", precision="int8", calibration_samples=2000)
    assert calibrate_model(recipe, tmp_path / "c.npz").warnings == ()


def test_a_single_batch_has_halves(models: Path, tmp_path: Path) -> None:
    recipe = recipe_of("gan", models / "gan", precision="int8", calibration_samples=8)
    found = calibrate_model(recipe, tmp_path / "c.npz")
    assert found.calibration.statistics.batches == 1
    assert all(0 < r.instability < 1 for r in found.ranges)
    assert f"{found.ranges[0].name!r} by {found.ranges[0].instability:.0%}" in found.warnings[0]


@pytest.mark.parametrize("precision", ["fp16", "int8-weight", "int4"])
def test_every_precision_warns_of_two_samples(precision: str, models: Path, tmp_path: Path) -> None:
    fitted = {"weight_method": "gptq"} if precision == "int8-weight" else {}
    for name in ("lm", "gan"):
        recipe = recipe_of(name, models / name, precision=precision, calibration_samples=2, tolerances=LOOSE, **fitted)
        warnings = export_model(recipe, tmp_path / name).warnings
        (told,) = [w for w in warnings if "evaluated on" not in w]
        assert "ranges change from one half of the samples to the other" in told
        assert "%" in told


@pytest.mark.slow
def test_a_search_warns_too(models: Path, tmp_path: Path) -> None:
    recipe = recipe_of("gan", models / "gan", precision="auto", calibration_samples=2)
    search = SearchConfig(budgets=(parse_budget("psnr>=1"),), objective="size", samples=4)
    recipe = replace(recipe, search=search, tolerances=LOOSE)
    (told,) = export_model(recipe, tmp_path / "out").warnings
    assert "ranges change from one half of the samples to the other" in told


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.stress)])
def test_the_defaults_of_a_shipped_model_are_enough(seed: int, tmp_path: Path) -> None:
    from aigc_export.recipes.recipe import export_recipe

    found = calibrate_model(export_recipe("unet", precision="int8", seed=seed, threads=1), tmp_path / "c.npz")
    assert found.samples == 256
    assert found.warnings == ()
