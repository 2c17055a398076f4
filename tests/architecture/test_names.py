"""Modules of ours that a text names exist: in documents, configuration, and programs that a string holds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .tracked import ROOT, tracked_files

TEXT = {".py", ".md", ".toml", ".ini", ".yaml"}
KEPT = {
    "aigc_runtime.open_pipelines": "a name that is misspelled on purpose",
    "aigc_export.sources": "a group of entry points",
}
_IMPORT = re.compile(r"\bfrom (aigc_\w+(?:\.\w+)*) import (\w+(?:, \w+)*)")
_DOTTED = re.compile(r"\baigc_(?:runtime|models|calibration|export)(?:\.[a-z_]\w*)+")


@cache
def source(module: str) -> str | None:
    """The text of a module; None where there is no such."""
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if found is None or found.origin is None else Path(found.origin).read_text(encoding="utf-8")


def exists(name: str) -> bool:
    """Whether a module has that name, or one above it speaks of the next part."""
    if source(name) is not None:
        return True
    module, _, part = name.rpartition(".")
    if not module:
        return False
    text = source(module)
    return exists(module) if text is None else re.search(rf"\b{part}\b", text) is not None


def faults(text: str) -> set[str]:
    """Names of ours in the text that do not exist."""
    named = {f"{m[1]}.{name}" for m in _IMPORT.finditer(text) for name in m[2].split(", ")}
    return {name for name in named | set(_DOTTED.findall(text)) - KEPT.keys() if not exists(name)}


def test_the_check_can_fail() -> None:
    program = "from aigc_runtime.opening import open_session, ort_open"
    assert faults(program) == {"aigc_runtime.opening.ort_open"}
    assert faults("see `aigc_runtime.manifest.Manifest`") == {"aigc_runtime.manifest"}
    assert faults("from aigc_runtime.backends.ort import open; aigc_runtime.core.compare.Tolerance.limits") == set()


def test_names_of_ours_exist() -> None:
    files = tracked_files()
    checked = [p for p in files if p.suffix in TEXT and p.name != Path(__file__).name]
    assert len(checked) > 400
    wrong = {str(p.relative_to(ROOT)): found for p in checked if (found := faults(p.read_text(encoding="utf-8")))}
    assert wrong == {}
