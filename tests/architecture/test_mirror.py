"""Tests mirror the source: what tests a module lies where the module's own path says, or is named here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .covered_elsewhere import COVERED_ELSEWHERE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "runtime/aigc_runtime": "tests/runtime",
    "models/aigc_models": "tests/models",
    "calibration/aigc_calibration": "tests/calibration",
    "export/aigc_export": "tests/export",
}
WITHOUT_BEHAVIOR = {"__init__.py", "__main__.py", "_version.py", "errors.py"}
"""Names of files that hold no more than names."""


def modules(root: Path) -> dict[str, str]:
    """Every source module and the test module that mirrors it, as paths below the root."""
    found: dict[str, str] = {}
    for package, tests in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            inner = path.relative_to(root / package)
            if inner.name not in WITHOUT_BEHAVIOR:
                mirror = Path(tests) / inner.parent / f"test_{inner.name}"
                found[path.relative_to(root).as_posix()] = mirror.as_posix()
    return found


def faults(root: Path, elsewhere: Mapping[str, str]) -> list[str]:
    """What breaks the rule: a module without a test, and an exception that is none."""
    wanted = modules(root)
    lost = [
        f"{module}: write {mirror}, or name the test that covers it"
        for module, mirror in wanted.items()
        if not (root / mirror).is_file() and module not in elsewhere
    ]
    stale = [f"{module}: not a module" for module in elsewhere if module not in wanted]
    needless = [f"{m}: {wanted[m]} is there" for m in elsewhere if m in wanted and (root / wanted[m]).is_file()]
    gone = [f"{module}: no file {test}" for module, test in elsewhere.items() if not (root / test).is_file()]
    return lost + stale + needless + gone


def test_every_module_has_its_test() -> None:
    assert len(modules(ROOT)) > 200
    assert faults(ROOT, COVERED_ELSEWHERE) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    for name in (
        "runtime/aigc_runtime/core/alone.py",
        "runtime/aigc_runtime/core/paired.py",
        "tests/runtime/core/test_paired.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    alone, paired = "runtime/aigc_runtime/core/alone.py", "runtime/aigc_runtime/core/paired.py"
    test = "tests/runtime/core/test_paired.py"
    assert faults(tmp_path, {alone: test}) == []
    assert faults(tmp_path, {}) == [f"{alone}: write tests/runtime/core/test_alone.py, or name the test that covers it"]
    assert faults(tmp_path, {alone: test, paired: test}) == [f"{paired}: {test} is there"]
    assert faults(tmp_path, {alone: "tests/none.py"}) == [f"{alone}: no file tests/none.py"]
    assert faults(tmp_path, {alone: test, "runtime/none.py": test}) == ["runtime/none.py: not a module"]
