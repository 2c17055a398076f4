"""Compute capabilities of NVIDIA GPUs, as text and as numbers."""

from __future__ import annotations

import re

from aigc_runtime.errors import ConfigError

__all__ = ["capability_number", "read_capability"]

_CAPABILITY = re.compile(r"[1-9][0-9]?\.[0-9]")
_SPELLED = re.compile(r"(?:sm_?)?([1-9][0-9]?)\.?([0-9])", re.IGNORECASE)


def capability_number(text: str) -> int:
    """A compute capability as one number that sorts: "8.6" -> 86.

    >>> capability_number("12.0")
    120

    Raises:
        ConfigError: not of the form MAJOR.MINOR.
    """
    if not _CAPABILITY.fullmatch(text):
        like = read_capability(text) if _SPELLED.fullmatch(text) else "8.6"
        raise ConfigError(
            f"{text!r} is not a compute capability", hint=f"it reads like {like}, as `aigc-run doctor` says"
        )
    return int(text.replace(".", ""))


def read_capability(text: str) -> str:
    """A compute capability as people type it, in the form of manifests; anything else as it is.

    >>> [read_capability(text) for text in ("8.7", "87", "sm_87", "SM120", "orin")]
    ['8.7', '8.7', '8.7', '12.0', 'orin']
    """
    spelled = _SPELLED.fullmatch(text)
    return text if spelled is None else f"{spelled[1]}.{spelled[2]}"
