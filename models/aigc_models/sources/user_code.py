"""PyTorch's failures to trace a module, as plain sentences with the line of the user's code."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

__all__ = ["SIZE_BY_NUMBERS", "capture_advice", "user_line"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n\s*(?P<code>[^\n]*)')
_FIXED = re.compile(
    r"You marked (?P<place>\S+) as dynamic but your code specialized it to be a constant \((?P<size>\d+)\)"
)
_PLACE = re.compile(r"L\['[^']*'\](?:\[(?P<index>\d+)\])?\.size\(\)\[(?P<axis>\d+)\]")
_OPERATOR = re.compile(r"No (?:ONNX )?(?:function|decompositions?)[^<]*<OpOverload\(op='(?P<name>[^']+)'")
_LIBRARY = Path(torch.__file__).parent

_DECIDES = "use torch.where to choose between two results, or torch.cond where a branch is costly"
SIZE_BY_NUMBERS = (
    "let the result have a fixed size, for example with a mask of the same size in place of boolean indexing, nonzero "
    "or unique"
)


def user_line(trace: str) -> str:
    r"""The innermost call of a trace that is not PyTorch's own, as `at FILE:LINE in FUNCTION: CODE`.

    >>> user_line('File "/home/me/noise.py", line 7, in forward\n    x = x + torch.randn_like(x)')
    'at /home/me/noise.py:7 in forward: x = x + torch.randn_like(x)'
    """
    frames = list(_FRAME.finditer(trace))
    own = [frame for frame in frames if _LIBRARY not in Path(frame["file"]).parents] or frames
    if not own:
        return ""
    last = own[-1]
    return f"at {last['file']}:{last['line']} in {last['function']}: {last['code']}".rstrip(": ")


def _raised_at(err: BaseException) -> str:
    """The innermost line of the user's own that an exception went through."""
    own = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        folders = Path(frame.filename).parents
        if frame.name == "forward" and _LIBRARY not in folders and own not in folders:
            return f"at {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return ""


def capture_advice(err: BaseException, axes: Mapping[tuple[int, int], str]) -> tuple[str, str]:
    """Say in plain words why PyTorch cannot trace a module, and what to do.

    Args:
        err: what PyTorch raised.
        axes: (number of the argument, axis) -> name of the dimension.

    Returns:
        What happened, to follow the module's name; and what to do.
    """
    cause: BaseException = err.__cause__ or err
    text = str(cause)
    where = user_line(text) or _raised_at(cause)
    at = f" {where}" if where else ""
    if fixed := [_dimension(match["place"], axes) + f" at {match['size']}" for match in _FIXED.finditer(text)]:
        return (
            f"forward fixes what was declared to vary: {', '.join(dict.fromkeys(fixed))}{at}",
            "it compares that size with a number, makes a Python int of it, or adds a tensor of just that size: "
            "compute with x.shape[...] as it is, or leave the dimension out of dims",
        )
    if "data-dependent" in text or "GuardOnDataDependent" in type(cause).__name__:
        if re.search(r"Could not guard on", text):
            return f"forward decides by the numbers in a tensor{at}", _DECIDES
        return f"a size depends on the numbers in a tensor{at}", SIZE_BY_NUMBERS
    if operator := _OPERATOR.search(text):
        return (
            f"the operator {operator['name']} has no counterpart in ONNX{at}",
            "compute it from other operators, or do it before or after the module",
        )
    if "numpy()" in text or "__array__" in text:
        return f"forward leaves PyTorch for numpy{at}", "compute it with torch's operators"
    lines = " ".join([line.strip() for line in text.splitlines() if line.strip()][:3])[:500]
    return (
        f"PyTorch cannot trace it{at}: {type(cause).__name__}: {lines}",
        "AIGC_DEBUG=1 shows the whole report",
    )


def _dimension(place: str, axes: Mapping[tuple[int, int], str]) -> str:
    """The user's name of a dimension that PyTorch names by its place."""
    match = _PLACE.match(place)
    if match is None:
        return f"dimension {place!r}"
    name = axes.get((int(match["index"] or 0), int(match["axis"])))
    return f"dimension {name!r}" if name else f"axis {match['axis']} of argument {match['index'] or 0}"
