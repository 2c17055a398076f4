"""Entries of tables that installed packages bring, by entry points: looked up only when a table lacks a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from aigc_runtime.errors import AigcError, ConfigError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["look_up", "plugin_names"]

T = TypeVar("T")


def look_up(table: Mapping[str, T], name: str, *, what: str, group: str, of: type[T]) -> T:
    """Look up an entry of a table, or else of an installed package.

    Args:
        table: the house's own entries, which no package can replace.
        name: of the entry.
        what: the word for an entry in messages, such as "target".
        group: of entry points, such as "aigc_export.targets"; each names an object.
        of: type of an entry.

    Raises:
        UnknownNameError: nobody has it; lists the names and the nearest.
        ConfigError: a package registers it, and it cannot be loaded or is something else.
    """
    if name in table:
        return table[name]
    found = _entry_points(group)
    if name not in found:
        raise UnknownNameError(what, name, (*table, *sorted(found.keys() - table.keys())))
    point = found[name]
    maker = "an installed package" if point.dist is None else f"package {point.dist.name!r}"
    try:
        loaded = point.load()
    except AigcError:
        raise
    except Exception as err:
        raise ConfigError(
            f"the {what} {name!r} of {maker} cannot be loaded: {type(err).__name__}: {err}",
            hint=f"mend the package or remove it; its entry point in {group} names {point.value}",
        ) from err
    if not isinstance(loaded, of):
        raise ConfigError(
            f"the {what} {name!r} of {maker} is {type(loaded).__name__}, not {of.__name__}",
            hint=f"its entry point in {group} names {point.value}; it must name an object of that type",
        )
    return loaded


def plugin_names(table: Mapping[str, object], *, group: str) -> tuple[str, ...]:
    """The names of a table, then those that installed packages add."""
    return (*table, *sorted(_entry_points(group).keys() - table.keys()))


def _entry_points(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # half as costly to import as numpy

    return {point.name: point for point in entry_points(group=group)}
