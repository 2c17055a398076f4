"""What is asked of an export and would change nothing, or could not be written, is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aigc_calibration.plan import parse_plan
from aigc_export.cli import run
from aigc_export.line import exporter
from aigc_export.line.exporter import PLAN_FILE, export_model
from aigc_export.prepare import prepare as front
from aigc_export.recipes.recipe import export_recipe
from aigc_runtime.errors import ConfigError, OutputError

from ..conftest import recipe_of

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("option", "precision"),
    [
        ({"keep_float": ["to_image"]}, "fp32"),
        ({"rotate": True}, "fp8"),
        ({"rotate": False}, "int4"),
        ({"split_skips": True}, "fp32"),
        ({"split_skips": True}, "int4"),
        ({"split_skips": True}, "fp16"),
        ({"equalize": 0.0}, "fp8"),
        ({"equalize": 0.0}, "int8-weight"),
        ({"float_share": 0.0}, "int4"),
        ({"float_share": 0.0}, "auto"),
        ({"ranges": "kl"}, "fp8"),
        ({"ranges": "kl"}, "int8-weight"),
        ({"weight_ranges": "kl"}, "int4"),
        ({"weight_method": "awq"}, "int8"),
        ({"block": 64}, "bf16"),
        ({"weight_zero_points": False}, "int8-weight"),
    ],
)
def test_a_choice_that_nothing_would_read(option: dict[str, Any], precision: str) -> None:
    with pytest.raises(ConfigError, match=f"changes nothing in {precision}"):
        export_recipe("gan", precision=precision, **option)


@pytest.mark.parametrize("samples", [{"calibration_samples": 8}, {"calibration_data": "texts"}])
def test_samples_that_nothing_is_learned_from(samples: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rounded to the nearest codes, which needs none"):
        export_recipe("gan", precision="int4", weight_method="rtn", **samples)
    assert export_recipe("gan", precision="int4", weight_method="gptq", **samples).quantization is not None


@pytest.mark.parametrize("option", [{"rotate": False}, {"split_skips": True}, {"equalize": 0.0}, {"float_share": 0.0}])
def test_the_graph_of_a_calibration_that_exists(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="which was made with it or without"):
        export_recipe("unet", precision="int8", calibration="ranges.npz", **option)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--precision", "int8", "--ranges", "kl"], "ranges", "kl"),
        (["--precision", "fp8", "--weight-ranges", "minmax"], "weight_ranges", "minmax"),
        (["--precision", "int4", "--weight-method", "rtn"], "weight_method", "rtn"),
        (["--precision", "auto", "--block", "128"], "block", 128),
        (["--precision", "int8", "--equalize", "0"], "equalize", 0.0),
        (["--precision", "int8", "--rotate"], "rotate", True),
        (["--precision", "int8", "--no-rotate"], "rotate", False),
        (["--precision", "int4", "--no-weight-zero-points"], "weight_zero_points", False),
        (["--precision", "int4", "--weight-zero-points"], "weight_zero_points", True),
        (["--precision", "fp8", "--float-share", "0"], "float_share", 0.0),
        (["--precision", "fp16", "--keep-float", "a", "--keep-float", "b.c"], "keep_float", ("a", "b.c")),
    ],
)
def test_options_reach_the_recipe(
    options: list[str], field: str, value: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def keep(recipe: Any, *_: object, **__: object) -> None:
        seen.append(recipe)
        raise ConfigError("far enough")

    monkeypatch.setattr(exporter, "export_model", keep)
    assert run(["export", "gan", *options, "-o", str(tmp_path / "out")]) == 2
    assert getattr(seen[0].quantization, field) == value


def test_modules_kept_float_in_a_bundle(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ["--checkpoint", str(checkpoints / "gan"), "--calibration-samples", "32", "--quality-samples", "0"]
    command = ["export", "gan", "--precision", "fp16", *options, "-o", str(tmp_path / "out")]
    assert run([*command, "--keep-float", "to_image", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["coverage"]["float_sites"] == {"to_image": "asked to stay float"}
    assert document["coverage"]["executed"] == 0.0  # ONNX Runtime multiplies no 16-bit numbers on a CPU
    plan = parse_plan((tmp_path / "out" / PLAN_FILE).read_bytes())
    assert [op.module for op in plan.ops if op.precision == "float"] == ["to_image"]
    assert run(["inspect", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "low_precision: " in printed
    assert "to_image: asked to stay float" in printed
    assert run([*command, "--keep-float", "to_imag"]) == 2
    assert "nearest: to_image" in capsys.readouterr().err


def test_why_sites_stay_float_is_told(checkpoints: Path, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    recipe = recipe_of("gan", checkpoints / "gan", precision="int8", calibration_samples=32)
    result = export_model(recipe, tmp_path / "out", stage=lambda *line: told.append(line))
    reasons = [text for name, text in told if name == "left float"]
    assert any("project: the configuration keeps it float" in text for text in reasons)
    assert result.coverage is not None
    assert set(result.coverage.float_sites) == {"project"}
    assert result.bundle.manifest.provenance["low_precision"] == str(result.coverage)


def test_weights_that_are_only_stored_in_few_bits_do_not_count_as_run(checkpoints: Path, tmp_path: Path) -> None:
    recipe = recipe_of("gan", checkpoints / "gan", precision="int8-weight", calibration_samples=32)
    coverage = export_model(recipe, tmp_path / "out").coverage
    assert coverage is not None
    assert coverage.planned > 0.5
    assert coverage.executed == 0.0
    assert "0.0% run in low precision, the rest stored so" in str(coverage)


@pytest.mark.parametrize("what", ["file", "folder of another", "below a file"])
def test_a_place_that_cannot_be_written_is_refused_first(
    what: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the work has started")

    monkeypatch.setattr(front, "resolve", too_late)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    place = {"file": "mine/thesis.txt", "folder of another": "mine", "below a file": "mine/thesis.txt/out"}[what]
    with pytest.raises(OutputError):
        export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_a_picture_that_is_no_png(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    bundle = str(export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / "out").bundle.path)
    assert run(["compare", bundle, bundle, "--image", str(tmp_path / "both.jpg")]) == 2
    assert "is not named as a PNG" in capsys.readouterr().err


def test_a_search_for_an_engine_that_does_not_run_here(capsys: Capture, tmp_path: Path) -> None:
    command = ["export", "gan", "--target", "tensorrt-rtx", "--precision", "auto", "-o", str(tmp_path / "out")]
    assert run(command) == 2
    assert "does not run auto" in capsys.readouterr().err
