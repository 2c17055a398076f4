"""Check config.json field by field: no field is ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aigc_models.field_hint import field_hint
from aigc_runtime.errors import CheckpointError

__all__ = ["check_record"]


def check_record(record: Mapping[str, Any], family: str, fields: Sequence[str]) -> None:
    """Check that config.json is that of the model, and that every field is read.

    Args:
        record: the parsed file.
        family: that it must be of.
        fields: that it may have beside `family` and `model`.

    Raises:
        CheckpointError: another family or another tool's file, a missing model, an unknown field; names it.
    """
    if "family" not in record and (foreign := _foreign(record)):
        raise CheckpointError(
            f"config.json is that of {foreign}, not of a checkpoint of family {family!r}",
            hint="such folders are not read directly: rename the tensors and write config.json as docs/checkpoint.md "
            f"shows, with the family {family!r}",
        )
    if record.get("family") != family:
        raise CheckpointError(
            f"config.json is of family {record.get('family')!r}, expected {family!r}",
            hint=f"name the model that the checkpoint was trained as; of {family!r}, config.json has "
            f'"family": "{family}": docs/checkpoint.md shows one',
        )
    if not isinstance(record.get("model"), dict):
        raise CheckpointError(
            f"config.json holds {type(record.get('model')).__name__} as 'model', expected the model's configuration",
            hint="docs/checkpoint.md shows one",
        )
    known = ("family", "model", *fields)
    for name in record:
        if name not in known:
            raise CheckpointError(
                f"config.json of family {family!r} has no field {name!r}",
                hint=field_hint(name, known),
            )


def _foreign(record: Mapping[str, Any]) -> str:
    """The other tool's model, where a config.json is another tool's; else empty."""
    if isinstance(record.get("_class_name"), str):
        return f"diffusers' {record['_class_name']!r}"
    architectures = record.get("architectures")
    names = ", ".join(map(str, architectures)) if isinstance(architectures, list) else ""
    if isinstance(record.get("model_type"), str):
        return f"transformers' {record['model_type']!r}" + (f" ({names})" if names else "")
    return f"transformers' {names}" if names else ""
