"""Bind example inputs to the parameters of a module's `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from aigc_models.sources.nested import check_names, flatten
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["ExampleInputs", "read_inputs"]


@dataclass(frozen=True)
class ExampleInputs:
    """The example of a module: arguments with slots, and the tensors for them by name."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    tensors: dict[str, Tensor]


def read_inputs(module: nn.Module, given: Any) -> ExampleInputs:
    """Bind the example to the parameters of `forward`, and name its tensors after them."""
    signature = inspect.signature(module.forward)
    if isinstance(given, (Tensor, np.ndarray)):
        given = (given,)
    if isinstance(given, Mapping):
        positional, named = (), dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        positional, named = tuple(given), {}
    else:
        raise ConfigError(
            f"example_inputs is a {type(given).__name__}", hint="give a mapping by name, a tuple, or one tensor"
        )
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in named:
        if not isinstance(name, str) or (name not in signature.parameters and not takes_any):
            raise UnknownNameError(f"parameter of {type(module).__name__}.forward", str(name), signature.parameters)
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as err:
        raise ConfigError(
            f"example_inputs do not fit {type(module).__name__}.forward{signature}: {err}",
            hint="give one value for each parameter without a default",
        ) from err
    places = _places(signature, bound)
    leaves, tree = flatten(places, name="", what="input")
    if not leaves:
        raise ConfigError("example_inputs has no tensor", hint="give at least one")
    check_names([name for name, _ in leaves], what="input")
    tensors = {name: tensor.detach() for name, tensor in leaves}
    return ExampleInputs(arguments=_call(signature, bound, tree), tensors=tensors)


def _places(signature: inspect.Signature, bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name: those of `*args` as a list, those of `**kwargs` each by its own."""
    places: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            places.update(value)
        else:
            places[name] = value
    return places


def _call(
    signature: inspect.Signature, bound: inspect.BoundArguments, tree: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tree as the arguments of a call: positional where `forward` takes them no other way."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    spread = any(kinds[name] is inspect.Parameter.VAR_POSITIONAL for name in bound.arguments)
    for name, value in tree.items():
        kind = kinds.get(name, inspect.Parameter.VAR_KEYWORD)
        if kind is inspect.Parameter.VAR_POSITIONAL:
            positional += list(value)
        elif kind is inspect.Parameter.POSITIONAL_ONLY or (spread and kind is inspect.Parameter.POSITIONAL_OR_KEYWORD):
            positional.append(value)
        else:
            named[name] = value
    return tuple(positional), named
