"""Limits of counts and numbers that settings and requests share."""

from __future__ import annotations

from aigc_runtime.errors import ConfigError

__all__ = ["MAX_COUNT", "MAX_GUIDANCE_SCALE", "MAX_STEPS", "check_range"]

MAX_COUNT = 2**24
"""Tokens of a vocabulary or a context, classes."""

MAX_STEPS = 10_000
"""Sampling steps."""

MAX_GUIDANCE_SCALE = 1e4
"""Far beyond any use; a larger one is a mistake that would only overflow."""


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number outside its range; None passes.

    Raises:
        ConfigError: names the field, its value and the range.
    """
    if value is not None and not low <= value <= high:
        raise ConfigError(
            f"{name} is {value:,}", hint=f"must be from {low:,} to {high:,}" if low <= high else "must be null here"
        )
