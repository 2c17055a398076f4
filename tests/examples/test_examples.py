"""Every example runs as it stands, in order, in one folder."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aigc_export.cli import run
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.pipelines.tensors import TensorsPipeline

from ..runtime import toys

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = ("upscaler_int8", "lstm_state", "three_parts", "device", "text_service", "open_pictures")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: what one writes, the next may read."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run_example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_no_example_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROGRAMS)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in listed for name in PROGRAMS)


@pytest.fixture(scope="module")
def upscaler(folder: Path) -> str:
    """What the upscaler's example prints; its bundle lies in the folder."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(folder)
        run_example("upscaler_int8")
    return printed.getvalue()


def test_an_upscaler_in_8_bits(upscaler: str) -> None:
    assert "(1, 3, 50, 21) -> (1, 3, 100, 42)" in upscaler
    with Bundle.open("out/upscaler") as bundle:
        assert (bundle.manifest.precision, bundle.manifest.pipeline.kind) == ("int8", "tensors")


@pytest.mark.usefixtures("upscaler")
def test_the_device_has_no_torch() -> None:
    code = (
        f"import runpy, sys; sys.argv[1:] = ['out/upscaler']; runpy.run_path({str(EXAMPLES / 'device.py')!r})['main']"
    )
    code += "('out/upscaler'); assert 'torch' not in sys.modules and 'aigc_export' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "larger: float32 (1, 3, 16, 16)" in done.stdout


def test_an_lstm_with_carried_state(capsys: pytest.CaptureFixture[str]) -> None:
    run_example("lstm_state")
    assert "20 steps as in PyTorch" in capsys.readouterr().out


def test_a_program_of_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    run_example("three_parts")
    assert "(1, 3, 16, 16) as in PyTorch, after 4 runs of the loop" in capsys.readouterr().out
    with Bundle.open("out/three-parts") as bundle:
        assert list(bundle.manifest.engines) == ["encoder", "refine", "decoder"]


def test_text_in_an_application(toy_text: Path) -> None:
    names = runpy.run_path(str(EXAMPLES / "text_service.py"))
    first, bad, again = names["serve"](str(toy_text), ["ab", "", "ab"], max_new_tokens=5)
    assert len(first) > 0
    assert bad == "(prompt 0 is empty)"
    assert names["serve"](str(toy_text), ["ab"], deadline_s=-1.0) == [""]
    assert again != ""


@pytest.fixture
def toy_text(tmp_path: Path) -> Path:
    return toys.write_toy_bundle(tmp_path, "toy_lm_growing")


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's package as pip installs it: its module, and its entry points."""
    import tomllib

    project = tomllib.loads((EXAMPLES / "own_package" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"]
    info = tmp_path / "own_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = (
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in groups.items()
    )
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES / "own_package"))
    yield
    sys.modules.pop("own_package", None)


@pytest.mark.usefixtures("own_package")
def test_a_package_with_a_source_and_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aigc_runtime.opening import open_pipeline

    model = tmp_path / "mlp"
    model.mkdir()
    sizes = [3, 5, 2]
    (model / "config.json").write_text(json.dumps({"model_type": "own-mlp", "sizes": sizes}))
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        weights |= {f"layers.{i}.weight": torch.randn(after, before), f"layers.{i}.bias": torch.randn(after)}
    save_file(weights, model / "model.safetensors")
    code = run(["export", str(model), "--target", "own-cpu", "-o", "out/mlp", "--quality-samples", "4"])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert "own-names" in printed.out
    x = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    expected = x
    for i in range(2):
        w, b = weights[f"layers.{i}.weight"].numpy(), weights[f"layers.{i}.bias"].numpy()
        expected = np.tanh(expected @ w.T + b)
    with open_pipeline("out/mlp") as pipeline:
        assert isinstance(pipeline, TensorsPipeline)
        np.testing.assert_allclose(pipeline.generate({"x": x})["output"], expected, atol=1e-5)
