"""The library logs and never prints: standard output and standard error belong to the command lines."""

from __future__ import annotations

import ast
import logging
from importlib import import_module
from pathlib import Path

import pytest

from .tracked import ROOT, tracked_files

PACKAGES = ("aigc_runtime", "aigc_models", "aigc_calibration", "aigc_export")
COMMAND_LINE = {
    "export/aigc_export/peers/process.py": "speaks with a process through its streams",
    "runtime/aigc_runtime/backends/ort/open.py": "moves what a library prints out of the way of JSON",
    "runtime/aigc_runtime/io/output_file.py": "knows /dev/stdout by another name",
    "runtime/aigc_runtime/io/report.py": "what a verb says of its results",
    "runtime/aigc_runtime/system/streams.py": "guards the streams of a command line",
}
"""Modules that know the standard streams, beside the folders `cli` and the `*_verb.py` of the kinds of pipelines."""


def is_command_line(path: Path) -> bool:
    return "cli" in path.parts or path.name.endswith("_verb.py") or path.relative_to(ROOT).as_posix() in COMMAND_LINE


def sources() -> list[Path]:
    return [p for p in tracked_files() if p.suffix == ".py" and any(f"/{name}/" in str(p) for name in PACKAGES)]


def prints(text: str) -> list[int]:
    """Lines that print, or take one of the streams."""
    found = []
    for node in ast.walk(ast.parse(text)):
        is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"print", "pprint"}
        is_stream = isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr", "basicConfig", "print_exc"}
        if is_print or is_stream:
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def test_the_check_can_fail() -> None:
    assert prints("import sys\nprint(1)\nsys.stderr.write('x')\n") == [2, 3]
    assert prints("logging.basicConfig()") == [1]
    assert prints('"""print(1)"""') == []


def test_the_library_prints_nothing() -> None:
    checked = [p for p in sources() if not is_command_line(p)]
    assert len(checked) > 200
    wrong = {str(p.relative_to(ROOT)): lines for p in checked if (lines := prints(p.read_text(encoding="utf-8")))}
    assert wrong == {}


def test_the_exceptions_are_needed() -> None:
    for name in COMMAND_LINE:
        assert prints((ROOT / name).read_text(encoding="utf-8")), name


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_has_a_silent_logger(package: str) -> None:
    import_module(package)
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger(package).handlers)


def test_loggers_have_the_names_of_their_modules() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            if "= logging.getLogger(" in line and line.startswith(("_LOG", "log")):
                assert line == "_LOG = logging.getLogger(__name__)", path
