"""Show the work of long verbs: a line per stage, a spinner, and a bar where steps are counted.

Lines go to the verb's console, the spinner and the bar to standard error and to a terminal only. They take turns: two
live displays on one terminal would write over each other.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from aigc_export.cli.options import err_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["StageDisplay"]

WARNING = "warning"


class StageDisplay:
    """Shows the stages of a verb.

    Args:
        console: for the lines.
        title: beside the spinner.
        bar: whether a bar may be shown.
        live: for spinner and bar; None takes standard error.
    """

    def __init__(self, console: Console, title: str, *, bar: bool = True, live: Console | None = None) -> None:
        self._console = console
        self._live = err_console() if live is None else live
        self._status = self._live.status(title)
        self._bar_wanted = bar and self._live.is_terminal
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> StageDisplay:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop_bar()
        self._status.stop()

    def stage(self, name: str, what: str) -> None:
        """Print a line for a stage; an `exporter.Stage`."""
        from rich.markup import escape

        from aigc_runtime.io.printable import printable

        self._drop_bar()
        self._status.stop()
        style = "bold yellow" if name == WARNING else "bold"
        self._console.print(f"[{style}]{escape(f'{name:<20}')}[/]{escape(printable(what))}", soft_wrap=True)
        self._status.start()

    def progress(self, what: str, seen: int, total: int) -> None:
        """Advance the bar of one phase; a `core.progress.Progress`. A builder calls from its own threads."""
        if not self._bar_wanted:
            return
        with self._lock:
            if self._bar is None:
                self._status.stop()
                self._bar = _make_bar(self._live)
                self._bar.start()
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total)
            self._bar.update(self._tasks[what], completed=seen, total=total)

    def _drop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._tasks = None, {}


def _make_bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
