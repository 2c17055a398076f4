"""Recognize an RRDBNet under the three sets of names that its files have.

| ours, and BasicSR's (Real-ESRGAN) | ESRGAN's | ESRGAN's before that |
| --- | --- | --- |
| `conv_first` | `conv_first` | `model.0` |
| `body.0.rdb1.conv1` | `RRDB_trunk.0.RDB1.conv1` | `model.1.sub.0.RDB1.conv1.0` |
| `conv_body` | `trunk_conv` | `model.1.sub.B`, B the number of blocks |
| `conv_up1` | `upconv1` | `model.3`; the next is `model.6` |
| `conv_hr` | `HRconv` | `model.8` with two doublings: 2 + 3 n |
| `conv_last` | `conv_last` | `model.10`: 4 + 3 n |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aigc_models.sources.by_keys.network import Network, Shapes, find_prefix, last_index, require_shape
from aigc_models.sources.by_keys.upscaler import OPTIONS, upscaler
from aigc_runtime.errors import CheckpointError

__all__ = ["find_rrdbnet"]

_BLOCK = re.compile(r"body\.(\d+)\.rdb(\d)\.conv(\d)")
MAX_UPSAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class _Naming:
    """A set of names.

    Attributes:
        mark: a name that no other network has.
        block: of a tensor, its first group the number of its block.
        up: of a tensor behind a doubling, its first group a number.
        upsamples: the largest such number -> how many doublings there are.
        theirs: (our name of a module, blocks, doublings) -> the file's.
    """

    mark: re.Pattern[str]
    block: str
    up: str
    upsamples: Callable[[int], int]
    theirs: Callable[[str, int, int], str]


def _mark(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(.*)\.)?{pattern}\.(?:weight|bias)")


def _same(name: str, _blocks: int, _upsamples: int) -> str:
    return name


def _esrgan(name: str, _blocks: int, _upsamples: int) -> str:
    if match := _BLOCK.fullmatch(name):
        return f"RRDB_trunk.{match[1]}.RDB{match[2]}.conv{match[3]}"
    ends = {"conv_body": "trunk_conv", "conv_hr": "HRconv"}
    return ends.get(name, name.replace("conv_up", "upconv"))


def _old(name: str, blocks: int, upsamples: int) -> str:
    if match := _BLOCK.fullmatch(name):
        return f"model.1.sub.{match[1]}.RDB{match[2]}.conv{match[3]}.0"
    if name.startswith("conv_up"):
        return f"model.{3 * int(name.removeprefix('conv_up'))}"
    places = {
        "conv_first": "0",
        "conv_body": f"1.sub.{blocks}",
        "conv_hr": f"{2 + 3 * upsamples}",
        "conv_last": f"{4 + 3 * upsamples}",
    }
    return f"model.{places[name]}"


_NAMINGS = (
    _Naming(
        mark=_mark(r"body\.\d+\.rdb[1-3]\.conv[1-5]"),
        block=r"body\.(\d+)\.",
        up=r"conv_up(\d+)\.",
        upsamples=lambda last: max(last, 0),
        theirs=_same,
    ),
    _Naming(
        mark=_mark(r"RRDB_trunk\.\d+\.RDB[1-3]\.conv[1-5]"),
        block=r"RRDB_trunk\.(\d+)\.",
        up=r"upconv(\d+)\.",
        upsamples=lambda last: max(last, 0),
        theirs=_esrgan,
    ),
    _Naming(
        mark=_mark(r"model\.1\.sub\.\d+\.RDB[1-3]\.conv[1-5]\.0"),
        block=r"model\.1\.sub\.(\d+)\.RDB",
        up=r"model\.(\d+)\.(?:weight|bias)",
        upsamples=lambda last: max((last - 4) // 3, 0),
        theirs=_old,
    ),
)


def find_rrdbnet(shapes: Shapes, *, source: str) -> Network | None:
    """Recognize an RRDBNet, and find out its configuration from the shapes.

    Args:
        shapes: of the file.
        source: what holds them, for messages.

    Returns:
        None for another network.

    Raises:
        CheckpointError: it is one, and a tensor that says of what sizes is missing or odd.
    """
    for naming in _NAMINGS:
        prefix = find_prefix(shapes, naming.mark, source=source)
        if prefix is not None:
            return _network(shapes, naming, prefix, source)
    return None


def _network(shapes: Shapes, naming: _Naming, prefix: str, source: str) -> Network:
    from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig

    start = re.escape(prefix)
    blocks = 1 + last_index(shapes, start + naming.block, source=source)
    upsamples = naming.upsamples(last_index(shapes, start + naming.up, source=source))
    if upsamples > MAX_UPSAMPLES:
        raise CheckpointError(
            f"{source} doubles the sides {upsamples} times", hint=f"at most {MAX_UPSAMPLES} times are read"
        )

    def theirs(name: str) -> str:
        module, _, part = name.rpartition(".")
        return f"{prefix}{naming.theirs(module, blocks, upsamples)}.{part}"

    shape = partial(require_shape, shapes, source=source)
    features, into, *_ = shape(theirs("conv_first.weight"), "F C 3 3")
    channels = shape(theirs("conv_last.weight"), "C F 3 3")[0]
    growth = shape(theirs("body.0.rdb1.conv1.weight"), "G F 3 3")[0]
    unshuffle = math.isqrt(into // channels) if channels else 0
    if unshuffle not in [2**n for n in range(upsamples + 1)] or into != channels * unshuffle**2:
        raise CheckpointError(
            f"{source}: tensor {theirs('conv_first.weight')!r} takes {into} channels, and "
            f"{theirs('conv_last.weight')!r} gives {channels}",
            hint="expected as many, or 4 or 16 times as many behind a pixel-unshuffle that later doublings undo",
        )
    config = RRDBNetConfig(
        channels=channels,
        num_feat=features,
        num_block=blocks,
        num_grow_ch=growth,
        upsamples=upsamples,
        unshuffle=unshuffle,
    )
    unshuffled = f", behind a pixel-unshuffle by {unshuffle}" if unshuffle > 1 else ""
    return Network(
        architecture="RRDBNet",
        family="rrdbnet",
        kind="upscale",
        config=config,
        build=lambda: RRDBNet(config),
        theirs=theirs,
        program=partial(upscaler, multiple_of=unshuffle, sensitive=("conv_first", "conv_last")),
        options=OPTIONS,
        words=f"{blocks} blocks of {features} features, growth {growth}, x{config.scale}{unshuffled}",
    )
