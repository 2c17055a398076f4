"""Every console block of docs/training.md runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from aigc_export.cli import run

from ..page_blocks import run_blocks
from .conftest import tool_environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_on_training_does_what_it_says(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(pixels[40 * i : 40 * i + 100, 50 * i : 50 * i + 120]).save(
                tmp_path / "photos" / name / f"{i}.png"
            )
    assert run_blocks((root / "docs" / "training.md").read_text(), tmp_path, tool_environment()) == 12
    assert (tmp_path / "out" / "gan" / "quality.json").is_file()
    assert len(list((tmp_path / "out" / "unet").glob("samples-*.png"))) == 2
    with Image.open(tmp_path / "out" / "flowers.png") as grid:
        assert grid.mode == "RGB"
    assert run(["inspect", str(tmp_path / "out" / "unet-bundle")]) == 0
    assert "classes: 0 china, 1 flower\n" in capsys.readouterr().out
