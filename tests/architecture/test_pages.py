"""What pages point at is there: their links, and the files and folders that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .tracked import ROOT, tracked_files

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[\w-]+)?\)")
_CODE = re.compile(r"`((?:runtime|models|calibration|export|tests|docs|benchmarks|examples)/[\w./-]+)`")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = (re.sub(r"[`*]", "", title).strip().lower() for title in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", name).replace(" ", "-") for name in names}


def faults(page: Path, root: Path = ROOT) -> list[str]:
    """Links and paths of a page that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    wrong = [path for path in _CODE.findall(text) if not (root / path).exists()]
    for path, anchor in _LINK.findall(text):
        target = page.parent / path if path else page
        lost = not target.exists()
        if lost or (anchor and target.suffix == ".md" and anchor[1:] not in anchors(target)):
            wrong.append(f"{path}{anchor}")
    return wrong


def pages() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md"]


def test_pages_point_at_what_is_there() -> None:
    found = pages()
    assert {ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/design.md")} <= set(found)
    wrong = {str(page.relative_to(ROOT)): lost for page in found if (lost := faults(page))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](none.md)", ["none.md"]),
        ("[a](#here-it-is) [b](page.md#here-it-is) [c](#gone)", ["#gone"]),
        ("`docs/none.py`, `docs`, `none/a.py`, `docs/page.md`", ["docs/none.py", "docs/page.md"]),
        ("[a](https://example.org/none)", []),
    ],
)
def test_the_check_can_fail(text: str, wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "page.md").write_text(f"# Here `it` is\n\n{text}\n")
    assert faults(tmp_path / "page.md", tmp_path) == wrong
