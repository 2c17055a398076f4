"""The measures of generated pictures, where their values are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from aigc_models.training.families import train_family

from ..models.training.test_families import make_pictures

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "picture_quality.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("picture_quality", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bias_of_the_frechet_distance_is_taken_out(script: ModuleType) -> None:
    """Two halves of one distribution have the distance 0; an estimate from few has the trace of the noise in it."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(20_000, 12))
    found = [script.unbiased_distance(rng.normal(size=(200, 12)), real) for _ in range(8)]
    whole, unbiased = np.mean([f[0] for f in found]), np.mean([f[1] for f in found])
    assert 0.05 < whole < 1
    assert abs(unbiased) < 0.35 * whole
    in_order = np.sort(rng.normal(size=(2000, 12)), axis=0)  # as pictures are by their classes
    in_order[:, 1:] = rng.normal(size=(2000, 11))
    whole, unbiased = script.unbiased_distance(in_order, real)
    assert abs(unbiased) < whole < 0.1
    shifted = script.unbiased_distance(rng.normal(size=(2000, 12)) + 1, real)[1]
    assert shifted == pytest.approx(12, rel=0.1)  # |m_a - m_b|^2


def test_the_nearest_picture_is_found(script: ModuleType) -> None:
    train = np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    assert script.nearest_distance(train[:2], train) == 0
    between = train[:1] + np.float32(0.1)
    assert script.nearest_distance(between, train) == pytest.approx(12.75, rel=1e-4)


@pytest.mark.parametrize("name", ["unet", "stylegan2"])
def test_a_trained_model_is_measured(
    name: str, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog", each=10)
    train_family("classifier", output=tmp_path / "classifier", data=data, steps=1, batch_size=2)
    train_family(name, output=tmp_path / "model", data=data, steps=1, batch_size=2, width=8)
    arguments = [str(tmp_path / "model"), str(data), "--classifier", str(tmp_path / "classifier"), "--count", "8"]
    script.main([*arguments, "--sheet", str(tmp_path / "sheet.png")])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() >= {"accuracy", "accuracy_real", "frechet", "unbiased", "floor", "nearest", "nearest_real"}
    assert all(set(lines[key].replace(",", "").split()[::2]) == {"cat", "dog"} for key in ("by_class", "by_class_real"))
    assert (float(lines["pictures"]), lines["unbiased"], lines["floor"]) == (8, "too few", "too few")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_other_classes_and_models_without_classes_are_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    data = make_pictures(tmp_path / "data", "cat", "dog")
    others = make_pictures(tmp_path / "others", "cat", "fox")
    flat = make_pictures(tmp_path / "flat", ".", each=10)
    train_family("gan", output=tmp_path / "gan", data=data, steps=1, batch_size=2)
    train_family("stylegan2", output=tmp_path / "plain", data=flat, steps=1, batch_size=2, width=8)
    for model, pictures, message in (
        ("gan", others, "has other classes"),
        ("plain", flat, "has no named classes"),
    ):
        with pytest.raises(SystemExit, match="2"):
            script.main([str(tmp_path / model), str(pictures), "--classifier", str(tmp_path / "c"), "--count", "4"])
        assert message in capsys.readouterr().err
