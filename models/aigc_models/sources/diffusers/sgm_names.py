"""The names that Stability's own code gives a UNet's modules, which kohya's scripts use for adapters of XL.

With L residual blocks per level on the way down, and L + 1 on the way up:

| diffusers | Stability's code |
| --- | --- |
| `down_blocks.i.resnets.j`, `attentions.j` | `input_blocks.(1 + i (L + 1) + j).0`, `.1` |
| `down_blocks.i.downsamplers.0.conv` | `input_blocks.((i + 1) (L + 1)).0.op` |
| `mid_block.resnets.0`, `attentions.0`, `resnets.1` | `middle_block.0`, `.1`, `.2` |
| `up_blocks.i.resnets.j`, `attentions.j` | `output_blocks.(i (L + 1) + j).0`, `.1` |
| `up_blocks.i.upsamplers.0.conv` | `output_blocks.(i (L + 1) + L).2.conv`, `.1.conv` without attention |
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["sgm_names"]

_BLOCK = re.compile(
    r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)"
)
_INNER = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def sgm_names(modules: Collection[str]) -> dict[str, str]:
    """The names of a UNet's modules there -> ours, of those that have one.

    Args:
        modules: names of all modules with weights.

    >>> names = sgm_names(["down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "conv_in"])
    >>> names["input_blocks.2.0.in_layers.2"], names["input_blocks.0.0"]
    ('down_blocks.0.resnets.1.conv1', 'conv_in')
    """
    blocks = {name: found for name in modules if (found := _BLOCK.match(name))}
    layers = len({found[4] for found in blocks.values() if (found[1], found[3]) == ("down_blocks", "resnets")})
    attends = {found[2] for found in blocks.values() if (found[1], found[3]) == ("up_blocks", "attentions")}
    made = {_OUTER[name]: name for name in modules if name in _OUTER}
    for name, found in blocks.items():
        way, level, kind, number = found[1], int(found[2] or 0), found[3], int(found[4])
        inner = name[found.end() + 1 :]
        inner = _INNER.get(inner, inner) if kind == "resnets" else inner
        if way == "mid_block":
            theirs = f"middle_block.{2 * number if kind == 'resnets' else 1}"
        elif kind == "downsamplers":
            theirs, inner = f"input_blocks.{(level + 1) * (layers + 1)}.0", "op"
        elif kind == "upsamplers":
            theirs = f"output_blocks.{level * (layers + 1) + layers}.{2 if found[2] in attends else 1}"
        else:
            place = level * (layers + 1) + number
            at = f"input_blocks.{1 + place}" if way == "down_blocks" else f"output_blocks.{place}"
            theirs = f"{at}.{0 if kind == 'resnets' else 1}"
        made[f"{theirs}.{inner}"] = name
    return made
