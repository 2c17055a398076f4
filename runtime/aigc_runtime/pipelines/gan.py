"""Image generation by a GAN's generator: one run for an image, or two, of which the first gives its styles.

Shapes: N images, Z latent size, S size of w, L layers, C channels, H height, W width, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count, chunks
from aigc_runtime.pipelines.gan_engines import CLASS_LABELS, IMAGE, LATENTS, GanEngines
from aigc_runtime.pipelines.gan_latents import check_limit, draw_latents
from aigc_runtime.pipelines.gan_request import GanArguments, GanRequest, NoiseSource, check_request
from aigc_runtime.pipelines.gan_styles import (
    linear_path,
    mixed_styles,
    repeated_styles,
    spherical_path,
    truncated_styles,
)
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles
from aigc_runtime.pipelines.limits import check_image_count, check_numbers
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["CLASS_LABELS", "IMAGE", "LATENTS", "SPACES", "GanPipeline", "Space", "draw_latents"]

Space = Literal["z", "w"]
SPACES: tuple[Space, ...] = ("z", "w")
"""What a path leads through: latents, or styles."""
_ARGUMENTS = tuple(GanArguments.__dataclass_fields__)


class GanPipeline:
    """Generates images with a generator, class-conditional or not, with styles or without.

    Args:
        program: one engine, or the session of it, with the inputs `latents` [N, Z] and, with classes, `class_labels`
            [N], and the output `image` [N, C, H, W]; or, with styles, an engine from these inputs to `w` [N, S], and
            one from `ws` [N, L, S] to `image`. The engine that gives images may take noise.
        settings: sizes, classes, styles.
        roles: which engine is the `model`, or the `mapping` and the `synthesis`.

    Raises:
        ConfigError: other roles, or an engine has other inputs or outputs, or other sizes.
    """

    def __init__(self, program: OpenProgram | Session, settings: GanSettings, roles: Roles = SINGLE_ENGINE) -> None:
        self.program, self.settings = as_program(program), settings
        self.engines = GanEngines(self.program, settings, roles)

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> GanPipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    def generate(
        self,
        class_labels: Sequence[int] | None = None,
        *,
        batch: int | None = None,
        seed: int = 0,
        truncation: float | None = None,
        truncation_cutoff: int | None = None,
        latents: Array | None = None,
        ws: Array | None = None,
        mix_seed: int | None = None,
        mix_from: int | None = None,
        noise_seed: int | None = None,
        same_noise: bool = False,
    ) -> Array:
        """Draw images.

        Args:
            class_labels: one per image, for a generator with classes.
            batch: number of images, for a generator without; else it follows from what is given.
            seed: of the latents: the noise of `torch.randn(N, Z, generator=...)` with the same seed.
            truncation: less variety, more fidelity; None draws freely. With styles it is psi of
                w' = mean + psi (w - mean) (Karras et al. 2019, appendix B), from -2 to 2; without, latents beyond this
                magnitude are drawn again (Brock et al. 2019, section 3.1).
            truncation_cutoff: layers before it take truncated styles; None takes all.
            latents: [N, Z] in place of drawn ones.
            ws: [N, S] or [N, L, S], styles in place of mapped ones.
            mix_seed: the layers from `mix_from` on take the styles of latents of this seed.
            mix_from: number of a layer, from 0.
            noise_seed: of the noise of a generator that takes some; None takes `seed`.
            same_noise: whether all images have the noise of the first.

        Returns:
            [N, C, H, W] float32, most of it in [-1, 1]. What writes pictures clips to it.

        Raises:
            InputError: a bad argument, or a result that is too large; says which and what is allowed.
            EngineError: an engine failed, or gave NaN.
        """
        request = self._request(
            class_labels=class_labels,
            batch=batch,
            seed=seed,
            truncation=truncation,
            truncation_cutoff=truncation_cutoff,
            latents=latents,
            ws=ws,
            mix_seed=mix_seed,
            mix_from=mix_from,
            noise_seed=noise_seed,
            same_noise=same_noise,
        )
        whole = (request.count, *self.settings.sample_shape)
        check_numbers(
            "the result", whole, hint="stream() gives the images one by one, and `-o FILE.npy` writes them so"
        )
        result: Array = np.empty(whole, dtype=np.float32)
        for rows, images in self._groups(request):
            result[rows] = images
        return result

    def stream(self, class_labels: Sequence[int] | None = None, **arguments: Any) -> Iterator[Array]:
        """Draw images, of which only a few are in memory at once; takes the arguments of `generate`.

        Yields:
            [C, H, W] float32: the very images of `generate`, in their order.

        Raises:
            InputError: as `generate` does, at once.
            UnknownNameError: an argument that `generate` does not take.
        """
        groups = self._groups(self._request(class_labels=class_labels, **arguments))
        return (image for _, images in groups for image in images)

    def interpolate(
        self,
        seeds: Sequence[int],
        frames: int,
        *,
        space: Space | None = None,
        class_label: int | None = None,
        truncation: float | None = None,
        truncation_cutoff: int | None = None,
        noise_seed: int | None = None,
    ) -> Iterator[Array]:
        """Draw the images on a path from seed to seed, the first and the last included.

        Args:
            seeds: two or more: `generate(seed=...)` gives the first image of each.
            frames: T, at equal steps on the whole path.
            space: `z` takes great circles between latents, `w` straight lines between styles; None takes `w` where
                there are styles.
            class_label: of all images, for a generator with classes.
            truncation: see `generate`, as for the next one.
            truncation_cutoff: layers before it take truncated styles.
            noise_seed: of the noise, which all images share; None takes the first of `seeds`.

        Yields:
            [C, H, W] float32.

        Raises:
            InputError: a bad argument, at once.
            UnknownNameError: no such space.
            EngineError: an engine failed, or gave NaN.
        """
        latents, styled = self._path_ends(seeds, frames, truncation), self.settings.style is not None
        chosen = ("w" if styled else "z") if space is None else space
        if chosen not in SPACES:
            raise UnknownNameError("space", shown(chosen), SPACES)
        if chosen == "w" and not styled:
            raise InputError("space is 'w'", hint="this generator has no styles: 'z' is its only space")
        arguments: dict[str, Any] = {"truncation_cutoff": truncation_cutoff, "noise_seed": noise_seed}
        if styled:
            arguments["truncation"] = truncation
        if self.settings.noise_sides:
            arguments |= {"noise_seed": seeds[0] if noise_seed is None else noise_seed, "same_noise": True}
        labels = [] if class_label is None else [class_label]
        if chosen == "z":
            return self.stream(labels * frames or None, latents=spherical_path(latents, frames), **arguments)
        ends = self._request(class_labels=labels * len(latents) or None, latents=latents, **arguments)
        return self._between_styles(ends, frames, arguments)

    def _between_styles(self, ends: GanRequest, frames: int, arguments: dict[str, Any]) -> Iterator[Array]:
        """Images on straight lines between the styles of given latents."""
        points = []
        assert ends.latents is not None
        for rows in chunks(ends.count, self.engines.rows):
            labels = None if ends.labels is None else ends.labels[rows]
            points.append(self.engines.styles(ends.latents[rows], labels))
        yield from self.stream(ws=linear_path(np.concatenate(points), frames), **arguments)

    def _path_ends(self, seeds: Sequence[int], frames: int, truncation: float | None) -> Array:
        """The latents of the seeds, [K, Z]."""
        count, size, style = check_count("frames", frames), self.settings.latent_size, self.settings.style
        if len(seeds) < 2:
            raise InputError(f"seeds is {shown(seeds)}", hint="give two or more")
        if count < len(seeds):
            raise InputError(f"frames is {count} for {len(seeds)} seeds", hint="give a frame for each at least")
        check_image_count(count)
        check_numbers("the path", (count, max(size, 0 if style is None else style.size)), hint="ask for fewer frames")
        limit = check_limit(truncation) if style is None else None
        return np.concatenate([draw_latents((1, size), seed=seed, truncation=limit) for seed in seeds])

    def _request(self, **arguments: Any) -> GanRequest:
        if unknown := arguments.keys() - set(_ARGUMENTS):
            raise UnknownNameError("argument of stream", min(unknown), _ARGUMENTS)
        return check_request(GanArguments(**arguments), self.settings)

    def _groups(self, request: GanRequest) -> Iterator[tuple[slice, Array]]:
        """Images in groups that the engines take at once, each with its rows."""
        noise = NoiseSource(self.settings.noise_sides, request.noise, same=request.same_noise)
        for rows, given in self._given(request):
            labels = None if request.labels is None else request.labels[rows]
            yield rows, self.engines.images(given, labels, noise.take(rows.stop - rows.start))

    def _given(self, request: GanRequest) -> Iterator[tuple[slice, Array]]:
        """What the images of a group are made of: latents, or styles of every layer."""
        settings, size = self.settings, self.engines.rows
        if request.ws is not None:
            for rows in chunks(request.count, size):
                yield rows, self._finished(request.ws[rows], request)
            return
        for first, latents, other in request.latent_pairs(settings.latent_size):
            for part in chunks(len(latents), size):
                rows = slice(first + part.start, first + part.stop)
                if settings.style is None:
                    yield rows, latents[part]
                    continue
                labels = None if request.labels is None else request.labels[rows]
                ws = repeated_styles(self.engines.styles(latents[part], labels), settings.style.layers)
                if other is not None and request.mix is not None:
                    late = repeated_styles(self.engines.styles(other[part], labels), settings.style.layers)
                    ws = mixed_styles(ws, late, request.mix[1])
                yield rows, self._finished(ws, request)

    def _finished(self, ws: Array, request: GanRequest) -> Array:
        """Styles of every layer [N, L, S], truncated."""
        assert self.settings.style is not None
        ws = repeated_styles(ws, self.settings.style.layers)
        return ws if request.psi == 1 else truncated_styles(ws, self.engines.mean, request.psi, request.cutoff)
