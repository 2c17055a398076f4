"""What a GAN's pipeline is asked for: checked arguments, and where latents, styles and noise come from.

Shapes: N images, Z latent size, S size of w, L layers, R side of noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count, check_labels, check_number, chunks
from aigc_runtime.pipelines.gan_latents import LATENT_ROWS, check_limit, latent_pieces
from aigc_runtime.pipelines.limits import check_image_count
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["MAX_PSI", "GanArguments", "GanRequest", "NoiseSource", "check_request"]

MAX_PSI = 2.0
"""Of truncation towards the mean: beyond, and below its negative, no generator makes images."""


@dataclass(frozen=True, kw_only=True)
class GanArguments:
    """The arguments of `GanPipeline.generate`, where they are explained."""

    class_labels: Sequence[int] | None = None
    batch: int | None = None
    seed: int = 0
    truncation: float | None = None
    truncation_cutoff: int | None = None
    latents: Array | None = None
    ws: Array | None = None
    mix_seed: int | None = None
    mix_from: int | None = None
    noise_seed: int | None = None
    same_noise: bool = False


@dataclass(frozen=True, kw_only=True)
class GanRequest:
    """A checked request.

    Attributes:
        count: N.
        labels: int64 [N]; None for a generator without classes, or where styles are given.
        seed: of latents that are drawn.
        limit: of their magnitude; None for none.
        psi: of truncation towards the mean; 1 for none.
        cutoff: layers that it moves; None for all.
        latents: [N, Z]; None where they are drawn.
        ws: [N, S] or [N, L, S], where styles are given.
        mix: seed of the latents whose styles the layers from a number on take; None for no mixing.
        noise: seed of it.
        same_noise: whether all images have the same.
    """

    count: int
    labels: Array | None
    seed: int
    limit: float | None
    psi: float
    cutoff: int | None
    latents: Array | None
    ws: Array | None
    mix: tuple[int, int] | None
    noise: int
    same_noise: bool

    def latent_pairs(self, size: int) -> Iterator[tuple[int, Array, Array | None]]:
        """Latents of the images piece by piece: its first row, [n, Z], and those of `mix`, where styles are mixed."""
        if self.latents is None:
            drawn = latent_pieces(self.count, size, self.seed, self.limit)
        else:
            drawn = ((rows.start, self.latents[rows]) for rows in chunks(self.count, LATENT_ROWS))
        if self.mix is None:
            yield from ((first, latents, None) for first, latents in drawn)
            return
        others = latent_pieces(self.count, size, self.mix[0], None)
        for (first, latents), (_, other) in zip(drawn, others, strict=True):
            yield first, latents, other


def check_request(arguments: GanArguments, settings: GanSettings) -> GanRequest:
    """Check arguments against a model.

    Raises:
        InputError: says which argument and what is allowed.
    """
    limit, psi = _truncation(arguments, settings)
    latents = _given("latents", arguments.latents, settings)
    ws = _given("ws", arguments.ws, settings)
    if latents is not None and ws is not None:
        raise InputError("latents and ws were given", hint="give one of them")
    if limit is not None and latents is not None:
        raise InputError(
            f"truncation is {shown(arguments.truncation)} and latents were given",
            hint="truncation draws latents again: leave it out, or give a seed",
        )
    labels = _labels(arguments, settings)
    count = _count(arguments, labels, ws if latents is None else latents)
    check_image_count(count)
    mix = _mix(arguments, settings)
    if mix is not None and ws is not None:
        raise InputError("mix_seed and ws were given", hint="styles that are given can be mixed before")
    if not settings.noise_sides and (arguments.noise_seed is not None or arguments.same_noise):
        raise InputError("noise was asked for", hint="this generator takes none: leave noise_seed and same_noise out")
    seed = check_seed(arguments.seed)
    return GanRequest(
        count=count,
        labels=labels,
        seed=seed,
        limit=limit,
        psi=psi,
        cutoff=_layer("truncation_cutoff", arguments.truncation_cutoff, settings),
        latents=latents,
        ws=ws,
        mix=mix,
        noise=seed if arguments.noise_seed is None else check_seed(arguments.noise_seed),
        same_noise=arguments.same_noise,
    )


def _truncation(arguments: GanArguments, settings: GanSettings) -> tuple[float | None, float]:
    """The limit on latents of one engine, and psi of a generator with styles."""
    if settings.style is None:
        return check_limit(arguments.truncation), 1.0
    if arguments.truncation is None:
        return None, 1.0
    return None, check_number("truncation", arguments.truncation, -MAX_PSI, MAX_PSI)


def _layer(name: str, value: object, settings: GanSettings) -> int | None:
    """A number of a layer of styles, from 0 to as many as there are."""
    if value is None:
        return None
    if settings.style is None:
        raise InputError(f"{name} is {shown(value)}", hint="this generator has no styles: leave it out")
    number = as_integer(value)
    if number is None or not 0 <= number <= settings.style.layers:
        raise InputError(f"{name} is {shown(value)}", hint=f"must be an integer from 0 to {settings.style.layers}")
    return number


def _mix(arguments: GanArguments, settings: GanSettings) -> tuple[int, int] | None:
    first = _layer("mix_from", arguments.mix_from, settings)
    if (first is None) != (arguments.mix_seed is None):
        raise InputError(
            f"mix_seed is {shown(arguments.mix_seed)}, mix_from is {shown(arguments.mix_from)}",
            hint="give both: a seed, and the first layer that takes its styles",
        )
    return None if first is None or arguments.mix_seed is None else (check_seed(arguments.mix_seed), first)


def _given(name: str, array: Array | None, settings: GanSettings) -> Array | None:
    """Latents or styles that are given, as float32.

    Raises:
        InputError: another type or shape, NaN, or styles for a generator without them.
    """
    if array is None:
        return None
    style = settings.style
    if name == "ws" and style is None:
        raise InputError("ws was given", hint="this generator has no styles: give latents")
    forms: list[tuple[int, ...]] = [(settings.latent_size,)]
    if name == "ws" and style is not None:
        forms = [(style.size,), (style.layers, style.size)]
    found = np.asarray(array)
    if found.dtype.kind != "f" or found.ndim == 0 or not found.size or found.shape[1:] not in forms:
        wanted = " or ".join(f"[N, {', '.join(map(str, form))}]" for form in forms)
        raise InputError(f"{name} is {found.dtype} {list(found.shape)}", hint=f"must be float32 {wanted}")
    found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds NaN or infinity", hint="must be finite")
    return found


def _labels(arguments: GanArguments, settings: GanSettings) -> Array | None:
    if settings.num_classes is None or arguments.ws is not None:
        if arguments.class_labels is not None:
            why = "this model takes none" if settings.num_classes is None else "styles have their class in them"
            raise InputError("class labels were given", hint=why)
        return None
    return check_labels(arguments.class_labels, settings.num_classes)


def _count(arguments: GanArguments, labels: Array | None, given: Array | None) -> int:
    counts = {}
    if labels is not None:
        counts["class_labels"] = len(labels)
    if given is not None:
        counts["latents" if arguments.ws is None else "ws"] = len(given)
    if arguments.batch is not None:
        counts["batch"] = check_count("batch", arguments.batch)
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the numbers of images differ: {', '.join(f'{name}: {count}' for name, count in counts.items())}",
            hint="give as many of each as images",
        )
    return next(iter(counts.values()), 1)


class NoiseSource:
    """The noise of a request: for every image `randn` of all its numbers, one layer after the other.

    Args:
        sides: R of every layer.
        seed: of the generator that draws all of it.
        same: whether all images have that of the first.
    """

    def __init__(self, sides: tuple[int, ...], seed: int, *, same: bool) -> None:
        self._sides, self._generator = sides, TorchGenerator(seed)
        self._numbers = sum(side**2 for side in sides)
        self._kept = self._draw() if same and sides else None

    def _draw(self) -> Array:
        return self._generator.randn((self._numbers,))

    def take(self, count: int) -> list[Array]:
        """The noise of the next images: float32 [count, 1, R, R] for every layer."""
        if not self._sides:
            return []
        rows = np.stack([self._draw() if self._kept is None else self._kept for _ in range(count)])
        cuts = np.cumsum([side**2 for side in self._sides])[:-1]
        parts = zip(self._sides, np.split(rows, cuts, axis=1), strict=True)
        return [np.ascontiguousarray(part).reshape(count, 1, side, side) for side, part in parts]
