"""Checks of a request as it stands in a bundle: every argument by type and meaning, for any kind of pipeline."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.ranges import check_range
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import check_number

__all__ = ["check_arguments", "integer_check", "number_check", "texts_check"]

_CALLBACKS = ("self", "progress", "cancel")

Check = Callable[[Any], object]
"""Refuses a value of an argument."""


def check_arguments(
    generate: Callable[..., Any],
    request: Mapping[str, Any],
    arrays: Collection[str],
    *,
    checks: Mapping[str, Check],
    array_names: tuple[str, ...] = (),
) -> None:
    """Refuse a request whose arguments are not those of a pipeline's `generate`.

    Args:
        generate: of the pipeline's class; its signature names the arguments.
        request: plain JSON keyword arguments.
        arrays: names of the keyword arguments that are arrays.
        checks: of the plain arguments; what has none is judged by `generate` itself.
        array_names: the arguments that are arrays: a bundle holds each of them as a .npy file, never as JSON.

    Raises:
        AigcError: names the argument, what was found and what is expected.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(generate).parameters.items()
        if name not in _CALLBACKS and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if unknown := sorted((request.keys() | set(arrays)) - parameters.keys()):
        raise ConfigError(f"the reference's request has {unknown[0]!r}", hint=f"known: {', '.join(parameters)}")
    _check_forms(request, arrays, array_names)
    for name, parameter in parameters.items():
        if name in arrays:
            continue
        if name not in request:
            if parameter.default is inspect.Parameter.empty:
                raise ConfigError(f"the reference's request has no {name!r}", hint=f"known: {', '.join(parameters)}")
        elif name in checks and (request[name] is not None or parameter.default is not None):
            checks[name](request[name])


def _check_forms(request: Mapping[str, Any], arrays: Collection[str], array_names: tuple[str, ...]) -> None:
    for name in array_names:
        if name in request:
            raise ConfigError(f"request.{name} is in the manifest", hint="an array must be in a .npy file of its own")
    for name in arrays:
        if name not in array_names:
            known = " and ".join(array_names) or "none of its arguments"
            raise ConfigError(f"request.{name} is a file", hint=f"only {known} are arrays")


def number_check(name: str, low: float, high: float) -> Check:
    """A check that an argument is a finite number from `low` to `high`."""

    def check(value: object) -> None:
        check_range(f"request.{name}", check_number(f"request.{name}", value, -math.inf), low, high)

    return check


def integer_check(name: str, most: int) -> Check:
    """A check that an argument is an integer from 1 to `most`."""

    def check(value: object) -> None:
        number = as_integer(value)
        if number is None:
            raise ConfigError(f"request.{name} is {value!r:.200}", hint=f"must be an integer from 1 to {most:,}")
        check_range(f"request.{name}", number, 1, most)

    return check


def texts_check(name: str, *, single: bool = False) -> Check:
    """A check that an argument is a list of texts, none of them empty; with `single` a text alone will do."""

    def check(value: object) -> None:
        texts = [value] if isinstance(value, str) and single else value
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(f"request.{name} is {value!r:.200}", hint="must be a list of texts, none of them empty")

    return check
