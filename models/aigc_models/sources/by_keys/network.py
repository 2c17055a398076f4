"""What a network is that was recognized, and whether a file holds all of its tensors and no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aigc_models.families.layers import MAX_DEPTH
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.program import Program

__all__ = ["Network", "Shapes", "check_tensors", "find_prefix", "last_index", "require_shape"]

MAX_LISTED = 8
"""Tensors that a message names beside the first."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that was recognized.

    Attributes:
        architecture: as those who published it call it.
        family: by which it is read.
        kind: of the pipeline that drives it.
        config: of its module.
        build: makes the module, with random weights.
        theirs: a parameter of the module -> its tensor in the file.
        program: (module, options of the export, name=, checkpoint=, source=, notes=) -> its program.
        options: names of those options.
        words: what it is, in a few words.
    """

    architecture: str
    family: str
    kind: str
    config: Any
    build: Callable[[], nn.Module]
    theirs: Callable[[str], str]
    program: Callable[..., Program]
    words: str
    options: tuple[str, ...] = ()


def find_prefix(shapes: Shapes, mark: re.Pattern[str], *, source: str) -> str | None:
    """Find what stands in front of the names that a mark is about, with its dot; None where it is about none.

    Args:
        shapes: of the file.
        mark: matches whole names, its first group the prefix without the dot.
        source: what holds the tensors, for messages.

    Raises:
        CheckpointError: the file holds several such networks.
    """
    found = sorted({match[1] or "" for match in map(mark.fullmatch, shapes) if match is not None})
    if len(found) > 1:
        raise CheckpointError(
            f"{source} holds several networks, under {', '.join(map(shown, found))}",
            hint="save the one that is meant as a file of its own",
        )
    return None if not found else f"{found[0]}." if found[0] else ""


def last_index(shapes: Shapes, pattern: str, *, source: str) -> int:
    """Find the largest number that names have where a pattern's first group is; -1 where no name matches.

    Raises:
        CheckpointError: it is larger than any network is deep.
    """
    found = [match[1] for match in (re.match(pattern, name) for name in shapes) if match is not None]
    if deep := [digits for digits in found if len(digits) > 5 or int(digits) >= MAX_DEPTH]:
        raise CheckpointError(
            f"{source} numbers a tensor {shown(deep[0])}, beyond {MAX_DEPTH:,} layers",
            hint="the file is damaged: get it again",
        )
    return max(map(int, found), default=-1)


def require_shape(shapes: Shapes, name: str, form: str, *, source: str) -> tuple[int, ...]:
    """Give the shape of a tensor by which the others are known.

    Args:
        shapes: of the file.
        name: of the tensor.
        form: its axes, such as `F C 3 3`; numbers are what they must be.
        source: what holds it, for messages.

    Raises:
        CheckpointError: it is missing, or of another form.
    """
    axes = form.split()
    if name not in shapes:
        raise CheckpointError(
            f"{source} lacks tensor {name!r} of shape [{', '.join(axes)}]", hint="is the file whole? get it again"
        )
    shape = shapes[name]
    if len(shape) != len(axes) or any(axis.isdigit() and int(axis) != n for n, axis in zip(shape, axes, strict=True)):
        raise CheckpointError(
            f"{source}: tensor {name!r} has shape {list(shape)}, expected [{', '.join(axes)}]",
            hint="another network than is read here comes in by file.py:function",
        )
    return shape


def check_tensors(shapes: Shapes, network: Network, *, source: str) -> int:
    """Check that a file holds exactly the tensors of a network, and count its parameters.

    Raises:
        CheckpointError: names the tensor that is missing, is not known or has another shape, as the file calls it.
    """
    import torch

    with torch.device("meta"):
        module = network.build()
    expected = {network.theirs(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    what = f"{network.architecture} ({network.words})"
    for name, shape in expected.items():
        if name not in shapes:
            raise CheckpointError(
                f"{source} lacks tensor {name!r} of shape {list(shape)}", hint=f"it was taken for {what}"
            )
        if shapes[name] != shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} has shape {list(shapes[name])}, expected {list(shape)}",
                hint=f"it was taken for {what}",
            )
    if surplus := sorted(shapes.keys() - expected.keys()):
        first, others = surplus[0], surplus[1:]
        besides = f"; nor {', '.join(map(shown, others[:MAX_LISTED]))}" if others else ""
        more = f" and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
        raise CheckpointError(
            f"{source} has a tensor {shown(first)} of shape {list(shapes[first])}, which {what} does not have"
            f"{besides}{more}",
            hint="another network than is read here comes in by file.py:function",
        )
    return sum(parameter.numel() for parameter in module.parameters())
