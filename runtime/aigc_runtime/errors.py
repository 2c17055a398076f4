"""Everything that can go wrong, by kind.

Each error says what happened, with the values, and what to do next. Libraries raise; only the two command
lines turn an error into an exit code (`exit_code`, documented in docs/cli.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AdapterError",
    "AigcError",
    "BundleError",
    "BundleReplacedError",
    "CancelledError",
    "ChatTemplateError",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "EngineMemoryError",
    "EngineMissingError",
    "FeedError",
    "InputError",
    "OutputError",
    "ParityError",
    "TextSupportMissingError",
    "UnknownNameError",
]


class AigcError(Exception):
    """Base of every error that this product raises on purpose.

    Args:
        message: what happened, with the values.
        hint: what to do next; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class CancelledError(AigcError):
    """The caller's `cancel` said so."""

    exit_code = 130


class InputError(AigcError):
    """The user asked for something that cannot be done: a bad prompt, zero steps, a negative seed."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that is in no registry; lists the valid names and the nearest one.

    >>> print(UnknownNameError("model", "unett", ["lm", "unet", "gan"]))
    unknown model 'unett'
    valid: gan, lm, unet. Did you mean 'unet'?
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        names = sorted(valid)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"valid: {', '.join(names) or '(none)'}." + (f" Did you mean {near[0]!r}?" if near else "")
        super().__init__(f"unknown {kind} {name!r}", hint=hint)
        self.valid = tuple(names)
        self.nearest = near[0] if near else None


class ConfigError(InputError):
    """A configuration value outside what the model, schedule or sampler allows."""


class ChatTemplateError(InputError):
    """A chat that its template refuses, or a template that fails or takes too long."""


class CheckpointError(AigcError):
    """A checkpoint that is corrupt, foreign, not finite, or does not match its configuration."""

    exit_code = 2


class AdapterError(CheckpointError):
    """An adapter with keys that the model does not have, or has in other shapes: it is of another model."""

    exit_code = 3


class FeedError(InputError):
    """An array that the engine must not see: wrong name, dtype, byte order, rank, shape or id range."""


class ParityError(AigcError):
    """The engine's outputs miss an explicit tolerance. Nothing is published."""

    exit_code = 3


class BundleError(AigcError):
    """A bundle that is missing, damaged, tampered with or of an unknown format version."""

    exit_code = 4


class BundleReplacedError(BundleError):
    """A bundle that another one took the place of while it was read; opening it again gives the new one."""


class EngineError(AigcError):
    """An engine that could not be opened or failed while running."""

    exit_code = 5


class EngineMemoryError(EngineError):
    """A run for which the memory does not suffice."""

    exit_code = 2


class EngineMissingError(EngineError):
    """A package that provides an engine, or checks signatures, is not installed; the hint is the exact install line."""


class TextSupportMissingError(EngineMissingError):
    """A package that reads a tokenizer, or renders a chat, is not installed; the hint is the exact install line."""


class OutputError(AigcError):
    """A result that could not be written: no permission, no space. What was there before stays."""

    exit_code = 6
