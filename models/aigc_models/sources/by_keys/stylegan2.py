"""Recognize a StyleGAN2 generator under the names of its public PyTorch form (`G_ema.state_dict()`).

| tensor | says |
| --- | --- |
| `mapping.fc0.weight`, `mapping.fc1.weight` | latents (and embedding of a class), hidden size; their number, layers |
| `mapping.embed.weight` | classes and size of their embedding; missing without classes |
| `mapping.w_avg` | size of w |
| `synthesis.b4.const`, `synthesis.b8.conv0.weight` | channels at every side; the last block the size of the image |
| `synthesis.b4.torgb.weight` | channels of the image; in every block: the architecture "skip" |
| `synthesis.b4.conv1.noise_const` | whether noise is added |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aigc_models.sources.by_keys.network import Network, Shapes, find_prefix, last_index, require_shape
from aigc_runtime.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.program import Program

__all__ = ["find_stylegan2"]

_MARK = re.compile(r"(?:(.*)\.)?synthesis\.b4\.(?:const|conv1\.weight)")
_STYLEGAN3 = re.compile(r"(?:(.*)\.)?synthesis\.input\.freqs")


def find_stylegan2(shapes: Shapes, *, source: str) -> Network | None:
    """Recognize a StyleGAN2 generator, and find out its configuration from the shapes.

    Args:
        shapes: of the file.
        source: what holds them, for messages.

    Returns:
        None for another network.

    Raises:
        CheckpointError: it is one, and of an architecture that is not read, or a tensor that says of what sizes is
            missing or odd.
    """
    if find_prefix(shapes, _STYLEGAN3, source=source) is not None:
        raise CheckpointError(
            f"{source} holds a StyleGAN3 generator, which is not read", hint="it comes in by file.py:function"
        )
    prefix = find_prefix(shapes, _MARK, source=source)
    if prefix is None:
        return None
    from aigc_models.families.stylegan2.config import StyleGAN2Config
    from aigc_models.families.stylegan2.generator import StyleGAN2

    shape = partial(require_shape, shapes, source=source)
    sides = _sides(shapes, prefix, source)
    _require_skip(shapes, prefix, sides, source)
    channels = [shape(f"{prefix}synthesis.b4.const", "O 4 4")[0]]
    channels += [shape(f"{prefix}synthesis.b{side}.conv0.weight", "O I 3 3")[0] for side in sides[1:]]
    layers = 1 + last_index(shapes, re.escape(prefix) + r"mapping\.fc(\d+)\.", source=source)
    hidden, joined = shape(f"{prefix}mapping.fc0.weight", "O I")
    embed, classes = 0, None
    if f"{prefix}mapping.embed.weight" in shapes:
        embed, classes = shape(f"{prefix}mapping.embed.weight", "E K")
    if embed >= joined:
        raise CheckpointError(
            f"{source}: tensor '{prefix}mapping.fc0.weight' takes {joined} numbers, of which {embed} are a class",
            hint="a generator without latents is not read",
        )
    w_size = shape(f"{prefix}mapping.w_avg", "S")[0]
    first = f"{prefix}synthesis.b4"
    try:
        config = StyleGAN2Config(
            z_size=joined - embed,
            w_size=w_size,
            num_classes=classes,
            embed_size=embed or None,
            hidden_size=hidden,
            mapping_layers=max(layers, 1),
            channels=tuple(channels),
            image_channels=shape(f"{first}.torgb.weight", "C I 1 1")[0],
            filter_size=shape(f"{first}.resample_filter", "F F")[0],
            noise=f"{first}.conv1.noise_const" in shapes,
        )
    except ConfigError as err:
        raise CheckpointError(f"{source}: {err.message}", hint=err.hint) from err
    classed = "" if classes is None else f", {classes} classes"
    return Network(
        architecture="StyleGAN2",
        family="stylegan2",
        kind="gan",
        config=config,
        build=lambda: StyleGAN2(config),
        theirs=lambda name: f"{prefix}{name}",
        program=_program,
        options=("noise",),
        words=f"{config.image_channels} x {config.image_size} x {config.image_size}, {config.z_size} latents, w of "
        f"{w_size}, {layers} layers of mapping{classed}",
    )


def _sides(shapes: Shapes, prefix: str, source: str) -> list[int]:
    """List the sides of the blocks, 4 and each twice the one before it."""
    found = (re.match(re.escape(prefix) + r"synthesis\.b(\d{1,5})\.", name) for name in shapes)
    sides = sorted({int(match[1]) for match in found if match is not None})
    expected = [4 << level for level in range(len(sides))]
    if sides != expected or len(sides) < 2:
        raise CheckpointError(
            f"{source} has blocks of sides {', '.join(map(str, sides))}",
            hint="expected 4, 8, 16 and so on without a gap: is the file whole?",
        )
    return sides


def _require_skip(shapes: Shapes, prefix: str, sides: list[int], source: str) -> None:
    """Refuse the paper's other architectures, by name."""
    colored = [side for side in sides if f"{prefix}synthesis.b{side}.torgb.weight" in shapes]
    if any(f"{prefix}synthesis.b{side}.skip.weight" in shapes for side in sides):
        found = "resnet"
    elif colored == sides[-1:]:
        found = "orig"
    else:
        return
    raise CheckpointError(
        f"{source} holds a StyleGAN2 generator of the architecture {found!r}, which is not read",
        hint="'skip' is read, which gives colors in every block; another comes in by file.py:function",
    )


def _program(module: nn.Module, options: Mapping[str, Any], **named: Any) -> Program:
    from aigc_models.families.stylegan2.generator import StyleGAN2
    from aigc_models.gan_programs import read_noise_mode, stylegan2_program

    assert isinstance(module, StyleGAN2)
    return stylegan2_program(module, noise=read_noise_mode(options), **named)
