"""Recognize an SRVGGNetCompact: convolutions at the even places of `body`, PReLUs at the odd ones."""

from __future__ import annotations

import math
import re
from functools import partial

from aigc_models.sources.by_keys.network import Network, Shapes, last_index, require_shape
from aigc_models.sources.by_keys.upscaler import OPTIONS, upscaler
from aigc_runtime.errors import CheckpointError

__all__ = ["find_srvgg"]

_MARK = re.compile(r"((?:.*\.)?)body\.[02]\.weight")


def find_srvgg(shapes: Shapes, *, source: str) -> Network | None:
    """Recognize an SRVGGNetCompact, and find out its configuration from the shapes.

    Args:
        shapes: of the file.
        source: what holds them, for messages.

    Returns:
        None for another network.

    Raises:
        CheckpointError: it is one, and a tensor that says of what sizes is missing or odd, or its activation cannot be
            known.
    """
    marks = [match[1] for name, shape in shapes.items() if (match := _MARK.fullmatch(name)) and len(shape) == 4]
    prefixes = [prefix for prefix in dict.fromkeys(marks) if marks.count(prefix) == 2]
    if len(prefixes) != 1 or len(set(marks)) != 1:
        return None
    (prefix,) = prefixes
    from aigc_models.families.srvgg import MAX_UPSCALE, SRVGGNet, SRVGGNetConfig

    last = last_index(shapes, re.escape(prefix) + r"body\.(\d+)\.", source=source)
    if not any(re.fullmatch(re.escape(prefix) + r"body\.\d*[13579]\.weight", name) for name in shapes):
        raise CheckpointError(
            f"{source} is a row of convolutions without PReLUs between them: whether ReLU or LeakyReLU stands there is "
            "not in the file",
            hint="build it with aigc_models.families.srvgg.SRVGGNetConfig(activation=...), and export it by "
            "file.py:function",
        )
    if last % 2 or last < 4:
        raise CheckpointError(
            f"{source} ends with tensor '{prefix}body.{last}.weight', expected a convolution at 4, 6, 8 and so on",
            hint="is the file whole? get it again",
        )
    first, end = f"{prefix}body.0.weight", f"{prefix}body.{last}.weight"
    features, channels, *_ = require_shape(shapes, first, "F C 3 3", source=source)
    out = require_shape(shapes, end, "C*S*S F 3 3", source=source)[0]
    upscale = math.isqrt(out // channels) if channels else 0
    if not 1 <= upscale <= MAX_UPSCALE or out != channels * upscale**2:
        raise CheckpointError(
            f"{source}: tensor {end!r} gives {out} channels, and {first!r} takes {channels}",
            hint="expected as many times the square of a scale",
        )
    config = SRVGGNetConfig(channels=channels, num_feat=features, num_conv=last // 2 - 1, upscale=upscale)
    return Network(
        architecture="SRVGGNetCompact",
        family="srvgg",
        kind="upscale",
        config=config,
        build=lambda: SRVGGNet(config),
        theirs=lambda name: f"{prefix}{name}",
        program=partial(upscaler, multiple_of=1, sensitive=("body.0", f"body.{last}")),
        options=OPTIONS,
        words=f"{config.num_conv} convolutions of {features} features, x{upscale}",
    )
