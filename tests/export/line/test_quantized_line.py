"""Every precision goes through the whole line; bad calibration data is refused before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_calibration.errors import PlanError
from aigc_calibration.plan import parse_plan
from aigc_export.cli import run
from aigc_export.line.calibrator import calibrate_model
from aigc_export.line.exporter import PLAN_FILE, export_model
from aigc_export.prepare import prepare as front
from aigc_export.targets.table import TARGETS
from aigc_models.families.gan import Generator
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, ConfigError, InputError

from ..conftest import TINY, recipe_of, tiny_gan, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")
LOW = tuple(p for p in TARGETS["ort-cpu"].precisions if p not in {"fp32", "auto"})
SHIPPED = {"lm": 0.33, "unet": 0.44, "gan": 0.87, "emoji": 0.65}
"""int8 bundle's size relative to the weights in fp32, at most: embeddings and what stays float keep four bytes."""


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("lm", "unet", "emoji")), "gan"]
)
def test_a_shipped_model_in_int8(name: str, tmp_path: Path) -> None:
    from aigc_export.recipes.recipe import export_recipe

    recipe = export_recipe(name, precision="int8", quality_samples=40, calibration_samples=64)
    result = export_model(recipe, tmp_path / name)
    bundle = result.bundle
    plan = parse_plan(bundle.read(PLAN_FILE))
    assert bundle.manifest.precision == "int8"
    assert plan.precision == ("int8-weight" if name == "lm" else "int8")
    assert plan.counts()[plan.precision] >= (2 if name == "gan" else 25)
    assert bundle.manifest.provenance["calibration_samples_sha256"]
    assert bundle.manifest.provenance["float_graph_sha256"] == plan.graph_sha256
    parameters = sum(tensor.numel() for tensor in front.load_program(recipe).part.module.parameters())
    assert bundle.size_bytes < SHIPPED[name] * 4 * parameters


@pytest.mark.parametrize("precision", [p for p in LOW if p != "int8"])
def test_every_precision_of_a_tiny_generator(precision: str, checkpoints: Path, tmp_path: Path) -> None:
    recipe = recipe_of("gan", checkpoints / "gan", precision=precision, calibration_samples=32)
    bundle = export_model(recipe, tmp_path / "out").bundle
    assert parse_plan(bundle.read(PLAN_FILE)).counts().keys() <= {precision, f"{precision}-weight", "float"}
    assert run(["verify", str(bundle.path), "--checkpoint", str(checkpoints / "gan"), "--quality-samples", "0"]) == 0


def odd_gan(edit: str) -> Generator:
    """A generator with one odd layer."""
    module = tiny_gan()
    first = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        if edit == "zero":
            for parameter in first.parameters():
                parameter.zero_()
        else:
            conv = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None][-1]
            conv.weight[::2] *= 1e-20  # decayed to nothing beside its bias
            conv.bias[::2] = 0.5  # type: ignore[index]
    return module


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["decayed", "zero"])
def test_a_layer_of_odd_weights(edit: str, tmp_path: Path) -> None:
    """Half of the channels nothing but a bias; a first layer of zeros, behind which everything is constant."""
    checkpoint = write_checkpoint(tmp_path / "odd", "gan", make=lambda: odd_gan(edit))
    found = export_model(recipe_of("gan", checkpoint, precision="int8", calibration_samples=32), tmp_path / "out")
    assert found.report.passed
    assert found.coverage is not None
    assert found.coverage.executed == found.coverage.planned > 0


@pytest.mark.slow
def test_an_engine_that_runs_float_publishes_nothing(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_calibration.coverage.INTEGER_OPS", frozenset({"Nothing"}))
    with pytest.raises(PlanError, match=r"nothing in the graph can be run in int8 by this engine"):
        export_model(recipe_of("unet", checkpoints / "unet", precision="int8"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def refuse(name: str, path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> AigcError:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the work has started")

    monkeypatch.setattr(front, "capture", too_late)
    precision = "fp8" if name == "lm" else "int8"  # which has no ranges there
    recipe = recipe_of(name, checkpoints / name, precision=precision, calibration_data=str(path))
    found = []
    for work in (export_model, calibrate_model):
        with pytest.raises(InputError) as caught:
            work(recipe, path.parent / "out")
        found.append(caught.value)
    assert str(found[0]) == str(found[1])
    assert not (path.parent / "out").exists()
    return found[0]


GOOD: dict[str, Array] = {
    "latents": np.random.default_rng(0).standard_normal((8, 6), dtype=np.float32),
    "class_labels": np.arange(8),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": None}, "the calibration arrays are class_labels"),
        ({"extra": np.zeros(8)}, "the calibration arrays are"),
        ({"latents": np.ones((8, 6), np.float32)}, "'latents' is one constant"),
        # Its standard deviation, in float32, is not zero.
        (
            {"latents": np.full((100, 6), 0.1, np.float32), "class_labels": np.arange(100) % 10},
            "'latents' is one constant",
        ),
        ({"latents": np.full((8, 6), np.nan, np.float32)}, "'latents' holds NaN"),
        ({"latents": GOOD["latents"][:, :5]}, "5"),
        ({"latents": GOOD["latents"].astype(np.float64)}, "float64"),
        ({"class_labels": np.arange(7)}, "have shapes"),
        ({"class_labels": np.full(8, 99)}, "99"),
        ({"latents": GOOD["latents"][:0], "class_labels": np.arange(0)}, "have shapes"),
    ],
)
def test_bad_arrays(
    changes: dict[str, object], message: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    found = refuse("gan", tmp_path / "data.npz", checkpoints, monkeypatch)
    assert re.search(message, str(found)), str(found)
    expected = "expected exactly: latents float32 [batch, 6] -100 to 100; class_labels int64 [batch] 0 to 9"
    assert expected in str(found)


def test_bad_files(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "object.npz", latents=np.array([{"a": 1}], dtype=object))
    assert "is not an .npz of plain arrays" in str(refuse("gan", tmp_path / "object.npz", checkpoints, monkeypatch))
    (tmp_path / "garbage.npz").write_bytes(b"not a zip file at all")
    assert "is not an .npz" in str(refuse("gan", tmp_path / "garbage.npz", checkpoints, monkeypatch))
    assert "no such file" in str(refuse("gan", tmp_path / "missing.npz", checkpoints, monkeypatch))
    (tmp_path / "text.txt").write_text("hello " * 1000)
    assert "which draws its own latents" in str(refuse("gan", tmp_path / "text.txt", checkpoints, monkeypatch))
    (tmp_path / "short.txt").write_text("short")
    assert "the calibration text has 5 tokens" in str(refuse("lm", tmp_path / "short.txt", checkpoints, monkeypatch))
    (tmp_path / "same.txt").write_text("a" * 10_000)
    assert "one token over and over" in str(refuse("lm", tmp_path / "same.txt", checkpoints, monkeypatch))


def test_the_users_own_data(checkpoints: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **GOOD)  # type: ignore[arg-type]
    recipe = recipe_of("gan", checkpoints / "gan", precision="int8-weight", calibration_data=str(tmp_path / "data.npz"))
    assert export_model(recipe, tmp_path / "out").bundle.manifest.provenance["calibration_samples"] == "8"


def test_calibration_of_fp32_makes_no_sense() -> None:
    from aigc_export.recipes.recipe import export_recipe

    with pytest.raises(ConfigError, match="calibration data for fp32"):
        export_recipe("gan", calibration_samples=8)


# By default one model: test_reproducible.py exports another twice in processes of their own, byte for byte.
@pytest.mark.parametrize("name", ["gan", *(pytest.param(n, marks=pytest.mark.stress) for n in TINY if n != "gan")])
def test_the_same_seed_makes_the_same_plan(name: str, checkpoints: Path, tmp_path: Path) -> None:
    plans = []
    for i in range(2):
        recipe = recipe_of(name, checkpoints / name, precision="int8-weight", calibration_samples=16)
        plans.append(json.loads(export_model(recipe, tmp_path / str(i)).bundle.read(PLAN_FILE)))
    assert plans[0] == plans[1]
    assert Bundle.open(tmp_path / "0").read("model.onnx") == Bundle.open(tmp_path / "1").read("model.onnx")
