"""Intervals of a training, in steps or in seconds."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from aigc_runtime.errors import ConfigError

__all__ = ["Clock", "Every", "parse_every"]

_UNITS = {"s": 1, "min": 60, "h": 3600}
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|min|h)")


@dataclass(frozen=True, kw_only=True)
class Every:
    """An interval: one of steps and seconds is set.

    Attributes:
        steps: of training.
        seconds: of the clock on the wall.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        value = self.steps if self.seconds is None else self.seconds
        if (self.steps is None) == (self.seconds is None) or value is None or not value > 0:
            raise ConfigError(f"Every: steps={self.steps}, seconds={self.seconds}", hint="set one, above 0")

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} s"


def parse_every(name: str, text: str) -> Every:
    """Read an interval: `100` is a number of steps; `30s`, `5min` and `1h` are times.

    >>> parse_every("save_every", "1.5min")
    Every(steps=None, seconds=90.0)

    Raises:
        ConfigError: neither; names the option.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) > 0:
        return Every(steps=int(text))
    if (found := _TIME.fullmatch(text.strip())) and float(found[1]) > 0:
        return Every(seconds=float(found[1]) * _UNITS[found[2]])
    raise ConfigError(f"{name} is {text!r}", hint="must be a number of steps, or a time such as 30s, 5min or 1h")


class Clock:
    """Says when an interval has passed.

    Args:
        every: how often; None never.
    """

    def __init__(self, every: Every | None) -> None:
        self.every = every
        self.last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Check whether the interval has passed after `step` steps."""
        if self.every is None:
            return False
        if self.every.steps is not None:
            return step % self.every.steps == 0
        assert self.every.seconds is not None
        return time.monotonic() - self.last >= self.every.seconds

    def restart(self) -> None:
        """Start the interval again."""
        self.last = time.monotonic()
