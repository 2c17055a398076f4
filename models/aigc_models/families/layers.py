"""Strict configuration dictionaries, which the model families share.

Sharing stops here on purpose: each model is one file that can be read alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from aigc_models.field_hint import field_hint
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.jsonable import convert
from aigc_runtime.io.printable import shown

__all__ = ["config_from_dict", "config_to_dict", "require_one_of", "require_positive"]

MAX_SIZE = 2**24
"""Of every size in a configuration."""
MAX_DEPTH = 1024
_DEPTHS = ("n_layers", "layers_per_block", "transformer_layers_per_block")

T = TypeVar("T")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration to plain JSON: tuples become lists.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class C:
    ...     sizes: tuple[int, ...] = (1, 2)
    >>> config_to_dict(C())
    {'sizes': [1, 2]}
    """
    return {key: _plain(value) for key, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def config_from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration from JSON, refusing unknown and missing fields; null means a field's default.

    Raises:
        ConfigError: names the field, and for an unknown one the nearest valid name; or a null without a default.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{cls.__name__} has no field {key!r}",
                hint=field_hint(key, sorted(known)),
            )
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}", hint="add them to config.json")
    hints, given = get_type_hints(cls), {}
    for name, value in values.items():
        # `type` is the annotation's text: these modules postpone the evaluation of annotations.
        if value is None and "None" not in str(known[name].type):
            if known[name].default is MISSING and known[name].default_factory is MISSING:
                raise ConfigError(f"{cls.__name__}.{name} is null", hint="give it a value")
            continue
        nested = _nested(hints[name])
        if nested is not None and isinstance(value, Mapping):
            given[name] = config_from_dict(nested, value)
        elif value is not None or nested is None:
            given[name] = convert(hints[name], value, f"{cls.__name__}.{name}", ConfigError)
    return cls(**given)


def _nested(hint: Any) -> type[Any] | None:
    """The configuration that a field holds, or holds unless it is null; None for another type."""
    found = [inner for inner in (hint, *get_args(hint)) if isinstance(inner, type) and is_dataclass(inner)]
    return found[0] if found else None


def require_one_of(owner: str, field: str, value: object, valid: Iterable[object]) -> None:
    """Raise ConfigError unless `value` is among `valid`."""
    choices = list(valid)
    if value not in choices:
        raise ConfigError(f"{owner}.{field} is {value!r}", hint=f"valid: {', '.join(map(str, choices))}")


def require_positive(owner: str, **values: int | None) -> None:
    """Raise ConfigError unless every given value is an integer from 1 to its most (None passes: the field is unset)."""
    for field, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{owner}.{field} is {shown(value)}", hint="must be an integer of at least 1")
        most = MAX_DEPTH if field in _DEPTHS else MAX_SIZE
        if value is not None and value > most:
            raise ConfigError(f"{owner}.{field} is {shown(value)}", hint=f"must be at most {most:,}")
