"""A program: named parts, each one graph, and the settings of the pipeline that drives them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import shape_value
from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.weights.checkpoint import Checkpoint

__all__ = ["Part", "Program", "QuantHints", "SizeLimit", "Vectors", "draw_like_example", "example_feeds"]


@dataclass(frozen=True, kw_only=True)
class QuantHints:
    """What the author of an architecture knows about rounding it. A module is its path, or the path's beginning.

    Attributes:
        sensitive: modules that stay float, because few bits cost them too much.
        sensitive_int8: the same where activations have 8 integer bits; None: as in `sensitive`.
        wide: modules whose weight takes 8 bits where the others take 4.
        smooth: strength of SmoothQuant, 0 to 1, by where its factors go: `gain` of a norm, or a `product`.
    """

    sensitive: tuple[str, ...] = ()
    sensitive_int8: tuple[str, ...] | None = None
    wide: tuple[str, ...] = ()
    smooth: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SizeLimit:
    """Dimensions whose sizes together are at most `max`: what is held and what is new must fit into a context."""

    dims: tuple[str, ...]
    max: int

    def __post_init__(self) -> None:
        if not self.dims or self.max < 1:
            raise ConfigError(f"the sizes of {list(self.dims)} are at most {self.max} together", hint="at least 1 of 1")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One graph of a program.

    Attributes:
        name: of the part, and of the engine that is made of it; the only part of a program is called `model`.
        module: takes every graph input positionally, in the order of `interface.graph_inputs`, and returns a tuple in
            the order of `interface.graph_outputs`.
        interface: names, types and shapes of everything that goes in and out.
        example_ranges: input -> (low, high) that examples are drawn from, where all that the input allows would make
            an example unlike any real one: left padding longer than the text hides the whole KV cache.
        examples: input -> one real example, of whose numbers others are drawn; for a module that was handed in.
        limits: on sizes together, beside those of each dimension.
        hints: how it is best quantized.
        notes: for the user: what was fixed, what was narrowed.
    """

    name: str = MAIN_ENGINE
    module: nn.Module = field(repr=False)
    interface: Interface
    example_ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    examples: Mapping[str, Array] = field(default_factory=dict, repr=False)
    limits: tuple[SizeLimit, ...] = ()
    hints: QuantHints = QuantHints()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(self.example_ranges.keys() - {t.name for t in self.interface.inputs})
        if unknown:
            raise ConfigError(f"example_ranges names {unknown[0]!r}, which is not an input")
        known = {dim.name for dim in self.interface.dims}
        for limit in self.limits:
            if not known.issuperset(limit.dims):
                raise ConfigError(
                    f"a limit on sizes names {sorted(set(limit.dims) - known)[0]!r}, which is no dimension"
                )


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """What a pipeline must give exactly, beside the arrays of its engines: a file of a bundle's reference.

    Attributes:
        data: the file.
        made_by: the program that recorded it.
        notes: for the user: what it could not be compared with.
    """

    data: bytes
    made_by: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A model as a program of parts.

    Attributes:
        name: of the model.
        kind: of the pipeline that drives it, a key of `aigc_runtime.pipelines.KINDS`.
        parts: name -> part.
        settings: of the pipeline.
        engines: role in the pipeline -> name of the part.
        states: part -> name of the carried state that it reads and writes; parts of one name share it. A part that is
            not named here has its own.
        assets: files that the pipeline reads, and that go into the bundle: name -> content.
        vectors: records what the pipeline must give exactly beside the arrays of its engines; None for nothing.
        model_config: the PyTorch model's configuration, as JSON.
        checkpoint: where the weights came from; None for a module that was handed in.
        source: what the user named to load it, where that is no shipped name: a folder or a function.
        options: that it was loaded with, such as `cache`: with them it is loaded again.
        notes: for the user: what was converted, what lies beside the weights and was not read.
        buffered: the same parts over the same modules, whose growing state is in buffers; for a target on which those
            are faster. Empty where the user chose the form of the state, or there is none.
    """

    name: str
    kind: str
    parts: Mapping[str, Part]
    settings: Any
    engines: Mapping[str, str] = field(default_factory=lambda: {MAIN_ENGINE: MAIN_ENGINE})
    states: Mapping[str, str] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    vectors: Callable[[], Vectors] | None = field(default=None, repr=False, compare=False)
    model_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    checkpoint: Checkpoint | None = field(default=None, repr=False)
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    buffered: Mapping[str, Part] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError(f"the program {self.name!r} has no parts", hint="give at least one")
        for name, part in self.parts.items():
            if name != part.name:
                raise ConfigError(f"the part {part.name!r} is called {name!r} in the program {self.name!r}")
        self._check_states()
        for role, name in self.engines.items():
            if name not in self.parts:
                raise ConfigError(
                    f"the role {role!r} names the part {name!r}, which the program {self.name!r} does not have",
                    hint=f"its parts: {', '.join(self.parts)}",
                )

    def _check_states(self) -> None:
        for name in self.states:
            if name not in self.parts or not self.parts[name].interface.state:
                raise ConfigError(
                    f"states names the part {name!r}, which carries no state in the program {self.name!r}"
                )
        for name in set(self.states.values()):
            sharing = [self.parts[part].interface.state for part, state in self.states.items() if state == name]
            if any(state != sharing[0] for state in sharing):
                raise ConfigError(f"parts that share the state {name!r} carry other tensors")

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file; for a module that was handed in, of all its numbers."""
        return self.module_sha256 if self.checkpoint is None else self.checkpoint.sha256

    @property
    def parameters(self) -> int:
        """Number of parameters; those that parts share count once."""
        found = {id(p): p.numel() for part in self.parts.values() for p in part.module.parameters()}
        return sum(found.values())

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the configuration: the same weights with other values are another model."""
        if self.checkpoint is not None:
            return self.checkpoint.config_sha256
        return hashlib.sha256(json.dumps(dict(self.model_config), sort_keys=True).encode()).hexdigest()

    @property
    def module_sha256(self) -> str:
        """SHA-256 of the configuration and of all numbers of all parts, however files hold them."""
        digest = hashlib.sha256(self.config_sha256.encode())
        for part in self.parts.values():
            for name, tensor in sorted(part.module.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def part(self) -> Part:
        """The only part.

        Raises:
            ConfigError: the program has several.
        """
        if len(self.parts) > 1:
            raise ConfigError(f"the program {self.name!r} has several parts: {', '.join(self.parts)}")
        return next(iter(self.parts.values()))


def example_feeds(part: Part, sizes: Mapping[str, int], *, seed: int) -> dict[str, Array]:
    """Make seeded random arrays for every graph input: integers within their range, a buffer partly filled.

    Args:
        part: of a program.
        sizes: a size for every named dimension.
        seed: of the draw.

    Raises:
        ConfigError: a named dimension without a size, or more new steps than a buffer holds.
    """
    rng = np.random.default_rng(seed)
    interface = part.interface
    ranges: dict[str, tuple[int, int]] = dict(part.example_ranges)
    lengths = interface.length_inputs
    if lengths:
        ranges |= dict.fromkeys(lengths, _held_range(interface, sizes))
    feeds = {}
    for tensor in interface.graph_inputs:
        shape, example = shape_value(tensor.shape, sizes, repr(tensor.name)), part.examples.get(tensor.name)
        if example is None:
            feeds[tensor.name] = _draw(rng, tensor, shape, ranges.get(tensor.name) or _range(tensor, sizes))
        else:
            feeds[tensor.name] = draw_like_example(np.asarray(example), shape, rng).astype(tensor.dtype, copy=False)
    return feeds | dict.fromkeys(lengths, feeds[lengths[0]]) if lengths else feeds


def draw_like_example(example: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw an array of the numbers of an example, each as likely as it is there.

    A mask, of two values, keeps its pattern: it is repeated or cut along each axis, its rows in another order. Drawn
    number by number, a row could hide all of what it masks.
    """
    if example.dtype == np.bool_ or (example.dtype.kind in "iu" and example.min() >= 0 and example.max() <= 1):
        rows = rng.permutation(len(example))
        mask = example[rows]
        for axis, size in enumerate(shape):
            mask = np.take(mask, np.arange(size) % mask.shape[axis], axis)
        return mask
    return rng.choice(example.ravel(), size=shape)


def _held_range(interface: Interface, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Choose how many steps the state may hold before the new ones; at least one where it can, so that they are seen.

    What grows tells it; a window alone may have lost steps, too.
    """
    steps, most = sizes.get(interface.step_dim or "", 1), sizes.get(interface.capacity_dim or "", interface.max_steps)
    held = sizes.get(interface.growing_dim or "")
    if most is not None and steps + (held or 0) > most:
        raise ConfigError(f"{steps + (held or 0)} steps do not fit into the carried state of {most}")
    if held is not None:
        return held, held + 1
    if most is None:
        return 1, 2 * max(max(spec.empty_shape(1)) for spec in interface.state) + 1
    return min(1, most - steps), most - steps + 1


def _range(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, int] | None:
    """The half-open range of an input's values at these sizes; None for real numbers."""
    if np.dtype(tensor.dtype).kind == "f":
        return None
    low, high = tensor.low if tensor.low is not None else 0, tensor.high_at(sizes)
    return low, high if high is not None else low + 2


def _draw(rng: np.random.Generator, tensor: TensorSpec, shape: tuple[int, ...], given: tuple[int, int] | None) -> Array:
    """Draw one input from a half-open range; real numbers without one are normal."""
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        values = rng.standard_normal(shape) if given is None else rng.uniform(*given, size=shape)
        return values.astype(dtype)
    assert given is not None
    return rng.integers(*given, size=shape).astype(dtype)
