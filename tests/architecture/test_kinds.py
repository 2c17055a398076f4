"""What depends on the kind of a pipeline stands with the kind: in the runtime's `pipelines`, in the host's `workloads`.

Three rules, each with a check that it can be broken: nothing asks for the type of a pipeline's settings, nothing
compares or looks up a kind's name, and no tensor's name stands outside of the module of its pipeline.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.denoiser import CLASS_LABELS, CONTEXT, MODEL_OUTPUT, NULL_CONTEXT, TIMESTEP
from aigc_runtime.pipelines.gan import LATENTS
from aigc_runtime.pipelines.text import INPUT_IDS, LOGITS, LOGITS_TO_KEEP, PAD_LENGTH

from .tracked import ROOT

HOMES = ("runtime/aigc_runtime/pipelines/", "export/aigc_export/workloads/")
SETTINGS = {kind.settings.__name__ for kind in KINDS.values()}
TENSORS = {
    INPUT_IDS,
    PAD_LENGTH,
    LOGITS_TO_KEEP,
    LOGITS,
    TIMESTEP,
    CLASS_LABELS,
    MODEL_OUTPUT,
    LATENTS,
    CONTEXT,
    NULL_CONTEXT,
}
"""Names that mean nothing else: `sample` and `image` are words, too."""

BRANCHES = {
    "models/aigc_models/sources/module.py": "a module that was handed in is of the kind `tensors`, unless it says more",
}
"""Files that may compare a kind's name, and why."""

NAMES = {
    "export/aigc_export/peers/engines/openvino_engine.py": "another runtime's own names",
    "models/aigc_models/families/diffusion.py": "parameters of its functions, in messages",
    "models/aigc_models/families/unet.py": "parameters of its module, in messages",
    "models/aigc_models/families/unet_config.py": "a way of embedding classes has the name, too",
}
"""Files that may hold a tensor's name, and why."""


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def asked_types(tree: ast.AST) -> Iterator[str]:
    """Types of settings that `isinstance` asks for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield from (n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name) and n.id in SETTINGS)


def branches(tree: ast.AST) -> Iterator[str]:
    """Names of kinds that are compared, or are keys of a table."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            asked = ast.unparse(node.left).split(".")[-1] in {"kind", "family"}
            names = {n.value for c in node.comparators for n in ast.walk(c) if isinstance(n, ast.Constant)}
            yield from (str(name) for name in sorted(map(str, names)) if asked and name in KINDS)
        elif isinstance(node, ast.Dict):
            keys = {str(k.value) for k in node.keys if isinstance(k, ast.Constant)} & KINDS.keys()
            if len(keys) > 1:
                yield f"a table of {', '.join(sorted(keys))}"


def tensor_names(tree: ast.AST) -> Iterator[str]:
    """Names of tensors that stand as strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in TENSORS:
            yield node.value


def faults(check: object, paths: list[Path], allowed: object = ()) -> list[str]:
    found = []
    for path in paths:
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
        if name.startswith(HOMES) or name in allowed:  # type: ignore[operator]
            continue
        found += [f"{name}: {what}" for what in check(ast.parse(path.read_text(encoding="utf-8")))]  # type: ignore[operator]
    return found


ALL = sources("runtime/aigc_runtime", "models/aigc_models", "calibration/aigc_calibration", "export/aigc_export")


def test_nothing_asks_for_the_type_of_settings() -> None:
    assert faults(asked_types, ALL) == []


def test_nothing_branches_on_the_name_of_a_kind() -> None:
    assert faults(branches, ALL, BRANCHES) == []


def test_tensors_are_named_once() -> None:
    assert faults(tensor_names, ALL, NAMES) == []


def test_every_exception_is_one() -> None:
    for check, allowed in ((branches, BRANCHES), (tensor_names, NAMES)):
        for name in allowed:
            assert faults(check, [ROOT / name]), name


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (asked_types, "isinstance(settings, (TextSettings, GanSettings))"),
        (branches, "program.kind == 'text'"),
        (branches, "if entry.family in ('gan', 'diffusion'): pass"),
        (branches, "BUDGETS = {'text': 1, 'gan': 2}"),
        (tensor_names, "feeds['input_ids']"),
    ],
)
def test_the_checks_can_fail(check: object, code: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(code)
    assert faults(check, [tmp_path / "bad.py"])
