"""The user's own Python function as a source: `path/to/file.py:function` or `package.module:function`.

It is code that the user names on the command line or in a call; what a bundle or a checkpoint names is never run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from aigc_models.program import Program
from aigc_runtime.errors import AigcError, ConfigError, UnknownNameError

__all__ = ["call_function", "names_function"]


def names_function(model: str) -> bool:
    """Whether a text names a Python function: something, a colon, an identifier."""
    place, colon, function = model.rpartition(":")
    return bool(colon and place and function.isidentifier())


def call_function(model: str) -> Program:
    """Import the module or file that a text names, call its function, and take the program that it returns.

    Args:
        model: `path/to/file.py:function` or `package.module:function`.

    Raises:
        ConfigError: no such file or module, code that raises (with its line), or a function that returns something
            else than a program.
        UnknownNameError: the module has no such function.
    """
    place, _, name = model.rpartition(":")
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    with _on_path(Path(place).parent if is_file else Path()):
        module = _load_file(Path(place)) if is_file else _import(place)
        function = _function(module, name, place)
        with _plain_errors(f"{model} raised"):
            program = function()
    if not isinstance(program, Program):
        raise ConfigError(
            f"{model} returned {_described(program)}",
            hint="return the program of a module: aigc_export.program(module, example_inputs)",
        )
    return replace(program, source=model)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Let the user's code import what lies beside it, as running the file would."""
    before = list(sys.path)
    sys.path.insert(0, str(folder.absolute()))
    try:
        yield
    finally:
        sys.path[:] = before


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            f"no file {str(path)!r} (looked in {str(Path.cwd())!r})", hint="name it as path/file.py:function"
        )
    if path.suffix != ".py":
        raise ConfigError(f"{str(path)!r} is no Python file", hint="name it as path/file.py:function")
    name = f"aigc_user_{path.stem}" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look there
    with _plain_errors(f"{path} raised"):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
            raise
    return module


def _import(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ConfigError(
            f"no Python module {name!r} was found",
            hint="name a module that can be imported, or a file: path/to/file.py:function",
        )
    with _plain_errors(f"{name} raised"):
        return importlib.import_module(name)


def _function(module: ModuleType, name: str, place: str) -> Callable[[], Any]:
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise UnknownNameError(f"function in {place}", name, own)
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"{name!r} in {place} is {_described(function)}", hint="name a function")
    return function  # type: ignore[no-any-return]


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Tell what the user's code raised, with its innermost line; our own errors pass."""
    try:
        yield
    except AigcError:
        raise
    except (Exception, SystemExit) as err:
        own = Path(__file__)
        frames = [f for f in traceback.extract_tb(err.__traceback__) if Path(f.filename) != own and f.line]
        frames = [f for f in frames if not f.filename.startswith("<frozen")]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
        place = f" at {err.filename}:{err.lineno}" if isinstance(err, SyntaxError) else where
        raise ConfigError(
            f"{what} {type(err).__name__}: {err}{place}", hint="mend it, or run it by itself first"
        ) from err
