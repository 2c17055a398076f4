"""Calibration knows graphs, and no model: no module's, tensor's or kind's name stands in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from .tracked import ROOT

CALIBRATION = ROOT / "calibration" / "aigc_calibration"
TOO_PLAIN = {"model", "1", "2", "norm", "w"}
"""Names of modules and tensors that say nothing of a model."""


@cache
def names_of_models() -> frozenset[str]:
    """Names of modules, tensors and kinds of the shipped models."""
    from aigc_export.workloads import WORKLOADS
    from aigc_models.sources.shipped import MODELS, load_shipped

    names: set[str] = {*WORKLOADS, *MODELS}
    for name in MODELS:
        for part in load_shipped(name).parts.values():
            names |= {piece for path, _ in part.module.named_modules() for piece in path.split(".") if piece}
            names |= {tensor.name for tensor in (*part.interface.inputs, *part.interface.outputs)}
    return frozenset(name for name in names if not name.isdigit()) - TOO_PLAIN


def strings(code: str) -> Iterator[str]:
    """The strings of a program that are no docstrings: what it compares and looks up."""
    tree = ast.parse(code)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value


def faults(paths: Iterable[Path], names: Iterable[str]) -> list[str]:
    known = set(names)
    return [
        f"{path.name}: {text!r}"
        for path in paths
        for text in strings(path.read_text(encoding="utf-8"))
        if known & set(text.split("."))
    ]


def test_calibration_names_no_model() -> None:
    assert len(names_of_models()) > 30
    assert {"lm_head", "conv_in", "to_image", "down_proj", "input_ids", "diffusion"} <= names_of_models()
    assert faults(sorted(CALIBRATION.rglob("*.py")), names_of_models()) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text('"""About lm_head."""\nKEPT = ("layers.0.mlp.down_proj", "other")\n')
    assert faults([tmp_path / "bad.py"], names_of_models()) == ["bad.py: 'layers.0.mlp.down_proj'"]
