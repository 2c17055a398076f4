"""What is shipped of a trained model of pictures: its weights in 16 bits, with measures that are its own."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from aigc_models.training.families import train_family
from aigc_models.weights.checkpoint import load_checkpoint

from ..models.training.test_families import make_pictures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("ship_pictures")


def test_a_shipped_checkpoint_is_the_trained_one_rounded_and_measured(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog", each=30)
    train_family("classifier", output=tmp_path / "classifier", data=data, steps=1, batch_size=2, width=1)
    report = train_family("gan", output=tmp_path / "gan", data=data, steps=1, batch_size=2, width=4)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "SOURCE.md").write_text("From a test.\n")
    (tmp_path / "shipped" / "config.json").write_text("{}")
    arguments = [str(tmp_path / "gan"), str(data), "--classifier", str(tmp_path / "classifier")]
    script.main([*arguments, "--count", "40", "-o", str(tmp_path / "shipped")])
    files = {path.name for path in (tmp_path / "shipped").iterdir()}
    assert files == {"config.json", "model.safetensors", "quality.json", "SOURCE.md"}
    before, after = load_checkpoint(tmp_path / "gan"), load_checkpoint(tmp_path / "shipped")
    assert before.config == after.config
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name], tensor.half() if tensor.is_floating_point() else tensor)
    written = json.loads((tmp_path / "shipped" / "quality.json").read_text())
    assert written["training"] == report["training"]
    assert written["samples"] == 40
    assert written["quality"].keys() >= {"class_accuracy", "class_accuracy_real", "frechet_distance"}
    assert f"class_accuracy {written['quality']['class_accuracy']:.4g}" in capsys.readouterr().out


def test_too_few_pictures_are_refused(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog", each=10)
    train_family("classifier", output=tmp_path / "classifier", data=data, steps=1, batch_size=2, width=8)
    train_family("gan", output=tmp_path / "gan", data=data, steps=1, batch_size=2, width=4)
    arguments = [str(tmp_path / "gan"), str(data), "--classifier", str(tmp_path / "classifier")]
    with pytest.raises(SystemExit, match="2"):
        script.main([*arguments, "--count", "8", "-o", str(tmp_path / "shipped")])
    assert "8 pictures are too few for a Fréchet distance" in capsys.readouterr().err
    assert not (tmp_path / "shipped").exists()
