"""The page on the Python interface: its code runs, and no public name is missing from it."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
import torch

import aigc_export
import aigc_runtime

from ..page_blocks import blocks, run_python
from ..runtime import toys

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
SHIPPED = {"lm": "toy_lm_growing", "unet": "toy_unet", "gan": "toy_gan"}
"""Bundles that the page takes as given -> toys of the same kinds, which take no time."""


@pytest.mark.slow
def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, toy in SHIPPED.items():
        shutil.move(toys.write_toy_bundle(tmp_path, toy), tmp_path / "out" / name)
    torch.manual_seed(0)
    names = run_python(PAGE)
    assert names["result"].report.passed
    assert names["small"].coverage.planned == 1
    printed = capsys.readouterr().out
    assert "the bundle is not signed, and only signed ones are trusted here" in printed
    assert "unknown precision" in printed
    assert (tmp_path / "out" / "unet.png").read_bytes().startswith(b"\x89PNG")


def names_used(code: str) -> set[str]:
    """The names and attributes that code mentions."""
    tree = ast.parse(code)
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
    }


@pytest.mark.parametrize("package", [aigc_export, aigc_runtime], ids=lambda package: package.__name__)
def test_every_public_name_is_used_and_explained(package: object) -> None:
    text = PAGE.read_text(encoding="utf-8")
    used = set().union(*(names_used(body) for kind, body in blocks(text) if kind == "python"))
    own = text.split(f"## {package.__name__}\n")[1].split("\n## ")[0]  # type: ignore[attr-defined]
    public = set(package.__all__)  # type: ignore[attr-defined]
    assert public - used == set()
    assert {name for name in public if f"`{name}`" not in own} == set()


def test_a_page_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        run_python(page)
    assert (str(raised.traceback[-1].path), raised.traceback[-1].lineno) == (str(page), 7)
