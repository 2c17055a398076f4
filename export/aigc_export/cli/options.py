"""Consoles and options that several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aigc_export.cli.paths import TEXT_PATH
from aigc_runtime.io.printable import printable
from aigc_runtime.io.report import emit_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "CONTEXT",
    "bundle_argument",
    "emit_json",
    "err_console",
    "json_option",
    "out_console",
    "show_warnings",
    "threads_option",
]

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def out_console() -> Console:
    """Make the console for results, on standard output; wide enough for tables where there is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 110))


def err_console() -> Console:
    """Make the console for progress, on standard error, so that --json stays clean."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show_warnings(*warnings: str) -> list[str]:
    """Show warnings on standard error; returns them, without those that are empty."""
    found = [text for text in warnings if text]
    for text in found:
        sys.stderr.write(f"warning: {printable(text)}\n")
    return found


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(function)


def threads_option(function: F) -> F:
    """Add `--threads`."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help="Threads of the engine. Default: every processor."
    )(function)


def bundle_argument(function: F) -> F:
    """Add the argument `BUNDLE`."""
    return click.argument("bundle_path", metavar="BUNDLE", type=TEXT_PATH)(function)
