"""The repository's own rules, each with a check that it can be broken."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from .tracked import ROOT, tracked_files

SOURCES = sorted(
    p for top in ("runtime", "models", "calibration", "export") for p in (ROOT / top).rglob("aigc_*/**/*.py")
)
MAX_LINES = 400
MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_CHECKPOINTS_BYTES = 14_000_000


def too_long(paths: list[Path]) -> list[str]:
    return [f"{p}: {n}" for p in paths if (n := len(p.read_text().splitlines())) > MAX_LINES]


def test_one_concept_per_file() -> None:
    assert len(SOURCES) > 50
    assert too_long(SOURCES) == []


def test_the_length_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("x = 1\n" * (MAX_LINES + 1))
    assert too_long([tmp_path / "long.py"])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_large_file_is_tracked() -> None:
    assert [p for p in tracked_files() if p.stat().st_size > MAX_FILE_BYTES] == []


def test_the_shipped_checkpoints_stay_small() -> None:
    folder = ROOT / "models" / "aigc_models" / "checkpoints"
    assert 0 < sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= MAX_CHECKPOINTS_BYTES


def passed_over(paths: Iterable[Path], config: pytest.Config) -> list[Path]:
    """What pytest itself does not look into when it is given a folder above."""
    ignored = config.hook.pytest_ignore_collect
    return [p for p in paths if ignored(collection_path=p, config=config)]


def test_every_file_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    files = set((ROOT / "tests").rglob("test_*.py"))
    assert ROOT / "tests" / "export" / "targets" / "tensorrt" / "test_matrix.py" in files
    folders = {folder for p in files for folder in p.parents if folder.is_relative_to(ROOT / "tests")}
    assert passed_over(sorted(files | folders), pytestconfig) == []
    assert {str(path) for path in pytestconfig.getini("testpaths")} == {"tests"}


def test_the_collection_check_can_fail(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    assert passed_over([tmp_path, hidden], pytestconfig) == [hidden]
