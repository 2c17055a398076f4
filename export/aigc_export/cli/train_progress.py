"""Show the progress of a training: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TrainProgress"]

LOG_SECONDS = 10.0


class TrainProgress:
    """Shows every step of a training; a `loop.OnStep`.

    Args:
        console: for bar and lines.
        title: beside the bar.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._bar: Any = None
        self._task: Any = None
        self._first: tuple[int, float] | None = None
        self._logged = -float("inf")
        self._held_out = ""

    def __enter__(self) -> TrainProgress:
        if self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self._title, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: int, steps: int, losses: dict[str, float]) -> None:
        """Show a step."""
        if "held_out_loss" in losses:
            self._held_out = f" held_out_loss {losses['held_out_loss']:.4g}"
        shown = " ".join(f"{k} {v:.4g}" for k, v in losses.items() if k != "held_out_loss") + self._held_out
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=steps, description=f"{self._title}: {shown}")
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if now - self._logged < LOG_SECONDS and step < steps:
            return
        self._logged = now
        self._console.print(f"step {step}/{steps} {shown}{self._rate(step, steps, now)}", markup=False, soft_wrap=True)

    def _rate(self, step: int, steps: int, now: float) -> str:
        assert self._first is not None
        done, seconds = step - self._first[0], now - self._first[1]
        if not done or seconds <= 0:
            return ""
        rate = done / seconds
        return f" {rate:.3g} steps/s" + (f" {_duration((steps - step) / rate)} left" if step < steps else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
