"""Targets and kinds of engines are named in their own folders and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from aigc_export.targets.table import TARGETS
from aigc_runtime.backends.table import BACKENDS

from .test_layout import SOURCES
from .tracked import ROOT

OWN = ("export/aigc_export/targets", "runtime/aigc_runtime/backends")
NAMES = frozenset({*TARGETS, *BACKENDS})
_NAMED = re.compile(rf"(?<![\w.-])({'|'.join(sorted(NAMES, key=len, reverse=True))})(?![\w-])")
EXCEPTIONS = {
    "calibration/aigc_calibration/search/journal.py": "the library that measures is part of a journal's environment",
    "calibration/aigc_calibration/search/workers.py": "a hint names the packages that workers need",
    "calibration/aigc_calibration/onnx_function.py": "a hint names the package that evaluates graphs on the host",
    "export/aigc_export/line/package.py": "the manifest says which version of the package evaluated graphs",
}
"""File -> why it names one all the same: ONNX Runtime also evaluates graphs on the host, whatever the target."""


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string of a module that is no docstring and no annotation."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def faults(paths: Iterable[Path], root: Path = ROOT) -> dict[str, set[str]]:
    """File -> names in it that belong elsewhere."""
    found: dict[str, set[str]] = {}
    for path in paths:
        place = path.relative_to(root).as_posix()
        if not place.startswith(OWN):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = {match[1] for text in texts(tree) for match in _NAMED.finditer(text)}
            found |= {place: named} if named else {}
    return found


def test_targets_and_engines_are_named_in_their_own_folders() -> None:
    found = faults(SOURCES)
    assert {place: names for place, names in found.items() if place not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() <= found.keys(), "an exception that is none"


def test_the_check_can_fail(tmp_path: Path) -> None:
    named = 'if kind == "onnxruntime" or line == "add --target ort-cpu":\n  x'
    sound = 'x = "tensorrt-llm, my-tensorrt, tensorrt_rtx"\n"""ort-cpu"""\n'
    (tmp_path / "line.py").write_text(f'"""Of tensorrt."""\n{named}')
    (tmp_path / "sound.py").write_text(f'"""Of tensorrt."""\n{sound}')
    assert faults(tmp_path.glob("*.py"), tmp_path) == {"line.py": {"onnxruntime", "ort-cpu"}}
