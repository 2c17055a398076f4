"""Recognize the parts of a language model of `nn.TransformerEncoder` by the names and shapes of its tensors.

Shapes: D model width, V vocabulary, P positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aigc_models.families.layers import MAX_DEPTH
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["EncoderTensors", "find_tensors", "has_encoder"]

Shapes = Mapping[str, tuple[int, ...]]

_MARK = re.compile(r"(?:(.*)\.)?layers\.([0-9]+)\.self_attn\.in_proj_weight")
_POSITIONS = re.compile(r"(?:^|[._])(?:pe|pos\w*)(?:$|[._])")
_MASK = re.compile(r"(?:^|[._])(?:src_|tgt_|attn_|causal_)?mask$")
_HEADS = (
    "output_layer",
    "decoder",
    "fc",
    "fc_out",
    "linear",
    "head",
    "lm_head",
    "out",
    "out_proj",
    "output",
    "generator",
)
"""What output layers are called, where neither has a bias that tells them from an embedding."""
_LAYER = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")


@dataclass(frozen=True, kw_only=True)
class EncoderTensors:
    """Which tensor is what.

    Attributes:
        prefix: in front of `layers.0...`, with its dot; empty for none.
        layers: how many there are.
        width: D.
        feed_forward: of `linear1`.
        biases: whether the layers have biases.
        final_norm: whether a norm follows the last layer.
        embedding: [V, D].
        head: [V, D]; None where it is the embedding.
        head_bias: [V]; None for none.
        positions: the table of P positions; None where the file has none.
        vocab_size: V.
        context_length: P; None without a table.
        ignored: masks.
    """

    prefix: str
    layers: int
    width: int
    feed_forward: int
    biases: bool
    final_norm: bool
    embedding: str
    head: str | None
    head_bias: str | None
    positions: str | None
    vocab_size: int
    context_length: int | None
    ignored: tuple[str, ...] = ()

    def layer(self, number: int, part: str) -> str:
        """The name of a layer's tensor."""
        return f"{self.prefix}layers.{number}.{part}"


def has_encoder(shapes: Shapes) -> bool:
    """Whether tensors are called as those of `nn.TransformerEncoder` are."""
    return any(_MARK.fullmatch(name) for name in shapes)


def find_tensors(
    shapes: Shapes, *, source: str, embedding: str | None = None, output: str | None = None
) -> EncoderTensors:
    """Find out which tensor is what.

    Args:
        shapes: name -> shape.
        source: what holds them, for messages.
        embedding: the name of the token embedding, where the user gave it.
        output: the name of the output layer's weight, likewise.

    Raises:
        CheckpointError: another model's tensors; names the one that is missing, is not known or has another shape.
    """
    marks = [match for match in map(_MARK.fullmatch, shapes) if match is not None]
    prefixes = {match[1] or "" for match in marks}
    if not marks:
        raise CheckpointError(
            f"{source} is of no nn.TransformerEncoder: no tensor is called 'layers.0.self_attn.in_proj_weight', with "
            "whatever before it",
            hint=f"it begins with {next(iter(shapes), '(nothing)')!r}; any module comes in by file.py:function",
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{source} has several stacks of layers: {', '.join(sorted(prefixes))}",
            hint="a language model of one nn.TransformerEncoder is read; others come in by file.py:function",
        )
    (bare,) = prefixes
    prefix = f"{bare}." if bare else ""
    if deep := [match[0] for match in marks if len(match[2]) > len(str(MAX_DEPTH)) or int(match[2]) >= MAX_DEPTH]:
        raise CheckpointError(
            f"{source} has a tensor {shown(deep[0])}, of more than {MAX_DEPTH:,} layers",
            hint="the file is damaged: get it again",
        )
    layers = 1 + max(int(match[2]) for match in marks)
    first = shapes.get(f"{prefix}layers.0.self_attn.in_proj_weight", ())
    if len(first) != 2 or first[0] != 3 * first[1]:
        raise CheckpointError(
            f"{source}: tensor '{prefix}layers.0.self_attn.in_proj_weight' has shape {list(first)}, expected [3 D, D]",
            hint="queries, keys and values of one width are read",
        )
    width = first[1]
    biases = f"{prefix}layers.0.self_attn.in_proj_bias" in shapes
    feed_forward = shapes.get(f"{prefix}layers.0.linear1.weight", (0,))[0]
    _check_layers(shapes, prefix, layers, width, feed_forward, biases=biases, source=source)
    rest = {n: s for n, s in shapes.items() if not n.startswith(f"{prefix}layers.") and n not in _final(prefix)}
    ignored = tuple(name for name in rest if _MASK.search(name))
    rest = {name: shape for name, shape in rest.items() if name not in ignored}
    positions = _positions(rest, width, source, known=(embedding, output))
    named, head, head_bias = _ends(rest, positions, width, source, embedding=embedding, output=output)
    used = {named, head, head_bias, positions}
    if strange := sorted(rest.keys() - used):
        raise CheckpointError(
            f"{source} has a tensor {strange[0]!r} of shape {list(rest[strange[0]])}, which no such language model has",
            hint="an embedding, positions, an encoder and an output layer are read; others come in by file.py:function",
        )
    return EncoderTensors(
        prefix=prefix,
        layers=layers,
        width=width,
        feed_forward=feed_forward,
        biases=biases,
        final_norm=f"{prefix}norm.weight" in shapes,
        embedding=named,
        head=head,
        head_bias=head_bias,
        positions=positions,
        vocab_size=rest[named][0],
        context_length=None if positions is None else max(rest[positions][:-1]),
        ignored=ignored,
    )


def _final(prefix: str) -> tuple[str, str]:
    return f"{prefix}norm.weight", f"{prefix}norm.bias"


def _check_layers(
    shapes: Shapes, prefix: str, layers: int, width: int, feed_forward: int, *, biases: bool, source: str
) -> None:
    """Check every tensor of every layer by name and shape."""
    sizes: dict[str, tuple[int, ...]] = {
        "self_attn.in_proj": (3 * width, width),
        "linear1": (feed_forward, width),
        "linear2": (width, feed_forward),
    }
    expected: dict[str, tuple[int, ...]] = {}
    for number in range(layers):
        for part in _LAYER:
            shape = sizes.get(part, (width, width) if part == "self_attn.out_proj" else (width,))
            joint = "_" if part == "self_attn.in_proj" else "."
            name = f"{prefix}layers.{number}.{part}{joint}"
            expected[f"{name}weight"] = shape
            if biases:
                expected[f"{name}bias"] = shape[:1]
    for name in _final(prefix):
        if name in shapes:
            expected[name] = (width,)
    for name, shape in expected.items():
        if name not in shapes:
            raise CheckpointError(
                f"{source} lacks tensor {name!r} of shape {list(shape)}", hint="is the file whole? save it again"
            )
        if shapes[name] != shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} has shape {list(shapes[name])}, expected {list(shape)}",
                hint="is it of one model only?",
            )
    for name in shapes:
        if name.startswith(f"{prefix}layers.") and name not in expected:
            raise CheckpointError(
                f"{source} has a tensor {name!r}, which a layer of nn.TransformerEncoder does not have",
                hint="another layer comes in by a function of your own: aigc-export export file.py:function",
            )


def _positions(rest: Shapes, width: int, source: str, *, known: tuple[str | None, ...]) -> str | None:
    """The table of positions: [P, D], or with an axis of 1 for the batch."""
    found = [
        name
        for name, shape in rest.items()
        if name not in known
        and shape[-1:] == (width,)
        and ((len(shape) == 3 and 1 in shape[:2]) or (len(shape) == 2 and _POSITIONS.search(name)))
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{source} has several tables of positions: {', '.join(map(repr, found))}", hint="one is read"
        )
    return found[0] if found else None


def _ends(
    rest: Shapes, positions: str | None, width: int, source: str, *, embedding: str | None, output: str | None
) -> tuple[str, str | None, str | None]:
    """Tell the embedding from the output layer: by what the user said, a bias, or a name."""
    tables = [name for name, shape in rest.items() if name != positions and len(shape) == 2 and shape[1] == width]
    for field, name in (("embedding", embedding), ("output", output)):
        if name is not None and name not in tables:
            raise CheckpointError(
                f"config.json: {field} is {name!r}, which is no tensor of shape [V, {width}] in {source}",
                hint=f"there are: {', '.join(map(repr, tables)) or 'none'}",
            )
    biases = [name for name, shape in rest.items() if len(shape) == 1 and name.endswith("bias")]
    head = output
    if head is None:
        biased = [name for name in tables if name.removesuffix("weight") + "bias" in biases and name != embedding]
        named = [
            name for name in tables if name.split(".")[-2:-1] and name.split(".")[-2] in _HEADS and name != embedding
        ]
        candidates = biased or (named if len(tables) > 1 else [])
        head = candidates[0] if len(candidates) == 1 else None
    left = [name for name in tables if name != head] if embedding is None else [embedding]
    if len(left) != 1 or (head is None and len(tables) > 1):
        raise CheckpointError(
            f"{source}: which is the token embedding and which the output layer cannot be told: "
            f"{', '.join(map(repr, tables)) or 'no tensor'} of shape [V, {width}]",
            hint='say so in config.json: "embedding": "NAME", "output": "NAME"',
        )
    (found,) = left
    if head is None and len(biases) != 1:
        raise CheckpointError(
            f"{source} has no output layer: {found!r} is the only tensor of shape [V, {width}]",
            hint="save the state dict of the whole model",
        )
    bias = biases[0] if head is None else next((b for b in biases if b == head.removesuffix("weight") + "bias"), None)
    for name in (head, bias):
        if name is not None and rest[name][0] != rest[found][0]:
            raise CheckpointError(
                f"{source}: {name!r} is of {rest[name][0]:,} tokens, the embedding {found!r} of {rest[found][0]:,}",
                hint="is it of one model only?",
            )
    return found, head, bias
