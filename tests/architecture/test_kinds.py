"""Nothing in the runtime branches on a kind of pipeline, or names a tensor, but the pipelines themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from aigc_runtime.pipelines import KINDS, denoiser, gan, text

from .tracked import ROOT

RUNTIME = ROOT / "runtime" / "aigc_runtime"
PIPELINES = RUNTIME / "pipelines"

HOMES = {
    "text.py": (text.INPUT_IDS, text.PAD_LENGTH, text.LOGITS),
    "denoiser.py": (
        denoiser.SAMPLE,
        denoiser.TIMESTEP,
        denoiser.CLASS_LABELS,
        denoiser.CONTEXT,
        denoiser.MODEL_OUTPUT,
    ),
    "gan.py": (gan.LATENTS, gan.CLASS_LABELS, gan.IMAGE),
}
"""The module of a pipeline -> the tensors that it names, each once."""

TENSORS = {name for names in HOMES.values() for name in names}

OTHER_MEANINGS = {
    "generation/schedules.py": {"sample"},  # a value of prediction_type
    "generation/samplers.py": {"sample"},
    "gan_kind.py": {"image"},  # the unit of its work
}

SETTINGS = {kind.settings.__name__ for kind in KINDS.values()}
CLASSES = SETTINGS | {"TextPipeline", "DiffusionPipeline", "GanPipeline", "TensorsPipeline"}


def literals(tree: ast.AST) -> Iterator[str]:
    """Every string of a module, as often as it stands there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def branches(tree: ast.AST) -> Iterator[str]:
    """The classes of pipelines and settings that a module asks for by `isinstance`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield from (n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name) and n.id in CLASSES)


def kind_literals(tree: ast.AST) -> Iterator[str]:
    """Names of kinds that a module compares with, or has as keys."""
    for node in ast.walk(tree):
        compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        keys = [key for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []
        for value in (*compared, *keys):
            if isinstance(value, ast.Constant) and value.value in KINDS:
                yield str(value.value)


def modules(*, pipelines: bool) -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(RUNTIME.rglob("*.py")):
        if path.is_relative_to(PIPELINES) == pipelines:
            yield path.relative_to(PIPELINES if pipelines else RUNTIME).as_posix(), ast.parse(path.read_text())


def test_no_module_outside_names_a_tensor() -> None:
    found = {
        name: wrong
        for name, tree in modules(pipelines=False)
        if (wrong := set(literals(tree)) & TENSORS - OTHER_MEANINGS.get(name, set()))
    }
    assert found == {}


def test_a_tensor_s_name_stands_once_in_its_pipeline() -> None:
    for name, tree in modules(pipelines=True):
        strings = [text for text in literals(tree) if text not in OTHER_MEANINGS.get(name, ())]
        wanted = HOMES.get(name, ())
        assert {tensor for tensor in TENSORS if tensor in strings} == set(wanted), name
        assert all(strings.count(tensor) == 1 for tensor in wanted), name


def test_no_module_asks_of_which_kind_a_pipeline_is() -> None:
    checked = dict(modules(pipelines=False))
    assert len(checked) > 60
    assert {name: found for name, tree in checked.items() if (found := list(branches(tree)))} == {}
    assert {name: found for name, tree in checked.items() if (found := list(kind_literals(tree)))} == {}


def test_the_checks_can_fail() -> None:
    tree = ast.parse('if isinstance(x, (int, GanSettings)) or x.kind == "gan": feeds["latents"] = {"text": 1}')
    assert list(branches(tree)) == ["GanSettings"]
    assert list(kind_literals(tree)) == ["gan", "text"]
    assert set(literals(tree)) & TENSORS == {"latents"}
    assert Path(denoiser.__file__).name in HOMES
