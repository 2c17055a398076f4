"""A pipeline's folder: its index, the folders of its components, and the JSON in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import path_exists, read_file

__all__ = ["INDEX_FILE", "component_folder", "named_components", "pipeline_of", "read_json"]

INDEX_FILE = "model_index.json"
MAX_BYTES = 16 * 2**20
_NO_BOUND = re.compile(rb'("lambda_min_clipped"\s*:\s*)-Infinity')
"""The one field where diffusers writes what is no JSON: no bound at all."""


def pipeline_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read the index of a pipeline: its class, and all of it.

    Raises:
        CheckpointError: it is damaged, or names no class.
    """
    index = read_json(folder / INDEX_FILE)
    kind = index.get("_class_name")
    return kind if isinstance(kind, str) else "", index


def named_components(
    index: Mapping[str, Any], classes: Mapping[str, Collection[str]], *, ignored: Collection[str], kind: str
) -> dict[str, str]:
    """Read which class each component of a pipeline is of.

    Args:
        index: the parsed model_index.json.
        classes: component -> the classes that are supported; each must be there.
        ignored: components that nothing here needs.
        kind: of the pipeline, for messages.

    Raises:
        CheckpointError: a component that is missing, not known, or of a class that is not supported; names it.
    """
    given = {n: v for n, v in index.items() if not n.startswith("_") and v not in (None, [None, None])}
    if unknown := sorted(n for n, v in given.items() if n not in classes and n not in ignored and v is not False):
        raise CheckpointError(
            f"{INDEX_FILE}: the component {unknown[0]!r} is not known", hint=f"a {kind} has {', '.join(classes)}"
        )
    found = {}
    for name, supported in classes.items():
        if name not in given:
            raise CheckpointError(f"{INDEX_FILE} names no {name}", hint="is it complete? copy it again")
        value = given[name]
        if not isinstance(value, list) or len(value) != 2 or value[1] not in list(supported):
            raise CheckpointError(
                f"{INDEX_FILE}: {name} is {shown(value)}, which is not supported",
                hint=f"supported: {', '.join(supported)}; others come in by a function of your own: "
                "aigc-export export file.py:function",
            )
        found[name] = str(value[1])
    return found


def component_folder(folder: Path, name: str) -> Path:
    """The folder of a component: its own, or in old pipelines that of the pipeline."""
    own = folder / name
    return own if path_exists(own) else folder


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object as diffusers writes it.

    Raises:
        CheckpointError: it is missing, too large or damaged.
    """
    if not path_exists(file):
        raise CheckpointError(f"{str(file)!r} is not there", hint="is the folder complete? copy it again")
    raw = _NO_BOUND.sub(rb"\1null", read_file(file, limit=MAX_BYTES, error=CheckpointError))
    value = loads_strict(raw, what=str(file), error=CheckpointError, written_by_hand=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{str(file)!r} is not a JSON object")
    return value
