"""The README as it stands, and the bundles that it makes where only the runtime is installed.

The commands of the README export the shipped models; the two distributions are built, installed alone, and used on
those bundles. One file, so that one process makes them once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ..page_blocks import run_blocks
from .conftest import tool_environment

OTHER_FILES = (
    "emoji/SOURCE.md",
    "emoji_classifier/real_features.json",
    "fashion/SOURCE.md",
    "fashion_classifier/real_features.json",
)
slow = pytest.mark.slow
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Path, int]:
    """Every console and Python block of the README, run in order in one folder; the folder, and how many ran."""
    folder = tmp_path_factory.mktemp("readme")
    return folder, run_blocks((root / "README.md").read_text(), folder, tool_environment())


@pytest.fixture(scope="module")
def bundles(readme: tuple[Path, int]) -> Path:
    """The folder with the bundles `lm`, `unet` and `gan`, made by the command line."""
    return readme[0] / "out"


def test_the_readme_does_what_it_says(readme: tuple[Path, int], bundles: Path) -> None:
    assert readme[1] >= 10
    assert {"lm", "unet", "gan"} <= {path.name for path in bundles.iterdir()}


def test_the_readme_check_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_blocks("```console\n$ aigc-run info no-such-bundle\n```\n", tmp_path, tool_environment())
    with pytest.raises(AssertionError):
        run_blocks("```python\nraise SystemExit(1)\n```\n", tmp_path, tool_environment())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in (root / "runtime", root):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


@slow
def test_the_wheels_hold_what_they_should(wheels: dict[str, Path]) -> None:
    runtime = set(zipfile.ZipFile(wheels["aigc_runtime"]).namelist())
    export = set(zipfile.ZipFile(wheels["aigc_export"]).namelist())
    assert "aigc_runtime/py.typed" in runtime
    assert not any(name.startswith(("aigc_export", "aigc_models", "tests")) for name in runtime)
    for model in ("lm", "unet", "gan", "emoji", "fashion", "classifier", "emoji_classifier", "fashion_classifier"):
        assert f"aigc_models/checkpoints/{model}/model.safetensors" in export
    assert {f"aigc_models/checkpoints/{file}" for file in OTHER_FILES} <= export
    assert {"aigc_export/py.typed", "aigc_calibration/__init__.py"} <= export
    assert not any(name.startswith(("aigc_runtime/", "tests/")) for name in export)


@pytest.fixture(scope="module")
def device(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """An environment with the runtime's wheel and nothing of the toolchain."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--constraint", str(root / "constraints.txt")]
    done = subprocess.run([*install, f"{wheels['aigc_runtime']}[ort]"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "bin"


def run(device: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(device / arguments[0]), *arguments[1:]], capture_output=True, text=True, check=False)


@slow
def test_a_device_without_torch_verifies_and_generates(device: Path, bundles: Path, tmp_path: Path) -> None:
    assert run(device, "python", "-c", "import torch").returncode != 0
    assert run(device, "python", "-c", "import aigc_export").returncode != 0
    for model in ("lm", "unet", "gan"):
        verified = run(device, "aigc-run", "verify", str(bundles / model), "--json")
        assert verified.returncode == 0, verified.stderr
        assert json.loads(verified.stdout)["passed"] is True
    text = run(device, "aigc-run", "generate", str(bundles / "lm"), "--prompt", "import ", "--max-new-tokens", "16")
    assert text.returncode == 0
    assert text.stdout.startswith("import ")
    assert len(text.stdout) > len("import \n")
    for model in ("unet", "gan"):
        picture = tmp_path / f"{model}.png"
        drawn = run(device, "aigc-run", "generate", str(bundles / model), "--class", "3", "-o", str(picture))
        assert drawn.returncode == 0, drawn.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")


@slow
def test_a_device_without_torch_runs_the_tests_of_a_bundle(
    device: Path, bundles: Path, tmp_path: Path, root: Path
) -> None:
    """The file of tests in docs/ci.md: nothing names the plugin but its entry point."""
    install = ["pip", "install", "--quiet", "--constraint", str(root / "constraints.txt"), "pytest"]
    assert run(device, *install).returncode == 0
    (block,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "ci.md").read_text(), re.DOTALL)
    (tmp_path / "test_bundle.py").write_text(block)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = run(device, "pytest", "-W", "error", "--aigc-bundle", str(bundles / "lm"), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 3 passed" in done.stdout


@slow
def test_the_same_seed_gives_the_same_picture_with_and_without_torch(
    device: Path, bundles: Path, tmp_path: Path
) -> None:
    """The device's picture against PyTorch's own: torch.randn noise, the PyTorch model, the same loop."""
    import numpy as np
    import torch
    from PIL import Image

    from aigc_models.sources.shipped import load_shipped
    from aigc_models.torch_session import TorchSession
    from aigc_runtime.io.png import to_uint8
    from aigc_runtime.pipelines.gan import GanPipeline
    from aigc_runtime.pipelines.settings import GanSettings

    picture = tmp_path / "seven.png"
    arguments = ["--class", "7", "--seed", "5", "--scale", "1", "-o", str(picture)]
    assert run(device, "aigc-run", "generate", str(bundles / "gan"), *arguments).returncode == 0
    program = load_shipped("gan")
    latents = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        (image,) = program.part.module(latents, torch.tensor([7]))
    inner = np.asarray(Image.open(picture))[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - to_uint8(image[0, 0].numpy()).astype(int)).max() <= 1
    assert isinstance(program.settings, GanSettings)
    again = GanPipeline(TorchSession(program.part), program.settings).generate([7], seed=5)
    assert np.abs(again - image.numpy()).max() < 1e-5
