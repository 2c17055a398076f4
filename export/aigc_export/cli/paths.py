"""Types of options that are paths: none is empty, and no two paths of a command line collide.

What is written never takes the place of what is read, nor of what else is written; and nothing is written into a
folder that is replaced as a whole, such as a bundle, which would not open with a file more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

from aigc_runtime.io.output_file import is_stream

__all__ = ["PATH", "REPLACED_FOLDER", "TEXT_PATH", "WRITTEN_PATH", "OptionPath", "PathsCollideError"]

Role = Literal["read", "written", "replaced"]


class PathsCollideError(click.BadParameter):
    """Two paths of a command line cannot both be; nothing at all may be written, reports included."""


class OptionPath(click.Path):
    """A path, never an empty one: `--data "$UNSET"` would mean the folder that the program runs in.

    Args:
        role: what the verb does with it: it is read; written; or a folder that is written, and replaced as a whole.
        path_type: str or Path.
    """

    def __init__(self, role: Role, path_type: type[str | Path] = Path) -> None:
        super().__init__(path_type=path_type)
        self.role = role

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a path; an empty path, or one that collides with an earlier one, is an error."""
        if value == "":
            self.fail("a path is expected, and this one is empty", param, ctx)
        for other, path in _others(ctx):
            assert isinstance(other.type, OptionPath)
            why = _collision(Path(value), self.role, path, other.type.role, _flag(other))
            if why:
                raise PathsCollideError(f"{str(value)!r} {why}", ctx, param)
        return super().convert(value, param, ctx)


PATH = OptionPath("read")
TEXT_PATH = OptionPath("read", str)
"""As it was typed."""
WRITTEN_PATH = OptionPath("written")
REPLACED_FOLDER = OptionPath("replaced")


def _others(ctx: click.Context | None) -> Iterator[tuple[click.Parameter, Path]]:
    """Return the paths that were read so far."""
    for parameter in () if ctx is None else ctx.command.params:
        given = ctx.params.get(parameter.name or "") if ctx is not None else None
        if isinstance(parameter.type, OptionPath):
            for path in given if isinstance(given, tuple) else (given,):
                if isinstance(path, (str, Path)):
                    yield parameter, Path(path)


def _collision(path: Path, role: Role, other: Path, other_role: Role, flag: str) -> str:
    """Say why two paths collide; empty where they do not."""
    if role == other_role == "read" or _takes_all(path) or _takes_all(other):
        return ""
    here, there = Path(os.path.realpath(path)), Path(os.path.realpath(other))
    if here == there:
        return f"is what {flag} reads" if other_role == "read" else f"is where {flag} writes"
    if role == "written" and other_role == "replaced" and here.is_relative_to(there):
        return f"is inside {str(other)!r}, which {flag} replaces as a whole"
    if other_role == "written" and role == "replaced" and there.is_relative_to(here):
        return f"is replaced as a whole, and {flag} writes into it"
    return ""


def _takes_all(path: Path) -> bool:
    """Check whether a path is a pipe or a device, to which several outputs may be written."""
    try:
        return is_stream(path)
    except (OSError, ValueError):
        return False


def _flag(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name
