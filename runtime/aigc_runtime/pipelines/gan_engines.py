"""The engines of a GAN's generator: one from latents to images, or a mapping to styles and a synthesis from them.

Shapes: N images, Z latent size, S size of w, L layers, C channels, H height, W width, R side of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, ConfigError, EngineError
from aigc_runtime.pipelines.arguments import batch_bounds, require_tensors
from aigc_runtime.pipelines.gan_styles import read_mean
from aigc_runtime.pipelines.kind import Roles, require_roles
from aigc_runtime.pipelines.limits import rows_at_once
from aigc_runtime.pipelines.settings import GanSettings, StyleSettings

__all__ = ["CLASS_LABELS", "IMAGE", "LATENTS", "MAPPING", "STYLES", "SYNTHESIS", "GanEngines", "W", "noise_name"]

LATENTS = "latents"
CLASS_LABELS = "class_labels"
IMAGE = "image"
W = "w"
STYLES = "ws"
"""The tensors of a generator."""
MAPPING = "mapping"
SYNTHESIS = "synthesis"
"""The roles of the engines of a generator with styles; one engine alone is the `model`."""


def noise_name(number: int) -> str:
    """The name of an input for noise, in the order of the layers that add it."""
    return f"noise_{number}"


class GanEngines:
    """The engines of a generator, checked against the settings.

    Args:
        program: opened, or known by its interfaces alone.
        settings: of the pipeline.
        roles: which engine is the `model`, or the `mapping` and the `synthesis`.

    Attributes:
        first: the session that takes latents and classes.
        last: the session that gives images; without styles the same one.
        first_name: of its engine.
        last_name: likewise.
        mean: the mean w, float32 [S]; empty without styles, and where nothing will be run.

    Raises:
        ConfigError: other roles, or an engine has other inputs or outputs, or other sizes.
        BundleError: the file of the mean w is missing or damaged.
    """

    def __init__(self, program: OpenProgram, settings: GanSettings, roles: Roles) -> None:
        require_roles("gan", roles, (MAIN_ENGINE,), (MAPPING, SYNTHESIS))
        if (MAPPING in roles) != (settings.style is not None):
            raise ConfigError(
                f"the settings have {'no ' if settings.style is None else ''}style, the engines are "
                f"{', '.join(sorted(roles))}",
                hint="a mapping and a synthesis need it, and no other engine does",
            )
        self.program, self.settings, self.roles = program, settings, roles
        self.first_name = roles[MAPPING if settings.style else MAIN_ENGINE]
        self.last_name = roles[SYNTHESIS if settings.style else MAIN_ENGINE]
        self.first, self.last = program.session(self.first_name), program.session(self.last_name)
        self.mean: Array = np.empty(0, dtype=np.float32)
        latents = {LATENTS: ("float32", (None, settings.latent_size))}
        classes = {} if settings.num_classes is None else {CLASS_LABELS: ("int64", (None,))}
        noise = {noise_name(n): ("float32", (None, 1, s, s)) for n, s in enumerate(settings.noise_sides)}
        images = {IMAGE: ("float32", (None, *settings.sample_shape))}
        if (style := settings.style) is None:
            require_tensors(self.last, inputs={**latents, **classes, **noise}, outputs=images)
            return
        require_tensors(self.first, inputs={**latents, **classes}, outputs={W: ("float32", (None, style.size))})
        styles = {STYLES: ("float32", (None, style.layers, style.size))}
        require_tensors(self.last, inputs={**styles, **noise}, outputs=images)
        # Read at once: a bundle is closed when its pipeline is open.
        self.mean = _mean(program, style) if program.assets is not None else self.mean

    @property
    def rows(self) -> int:
        """How many images are made together."""
        settings = self.settings
        least, most = 1, math.inf
        for session, name in self._taken():
            low, high = batch_bounds(session, name)
            least, most = max(least, low), min(most, math.inf if high is None else high)
        largest = max(settings.latent_size, math.prod(settings.sample_shape), settings.noise_size)
        return rows_at_once(largest, least, None if most == math.inf else int(most))

    def _taken(self) -> list[tuple[Session, str]]:
        """Each session, and an input of it that has a row for every image."""
        if self.settings.style is None:
            return [(self.last, LATENTS)]
        return [(self.first, LATENTS), (self.last, STYLES)]

    def styles(self, latents: Array, labels: Array | None) -> Array:
        """Map latents [N, Z] and classes [N] to w [N, S].

        Raises:
            EngineError: the engine failed, or gave NaN.
        """
        return _finite(self.first.run(_conditions(latents, labels))[W])

    def images(self, given: Array, labels: Array | None, noise: Sequence[Array] = ()) -> Array:
        """Make images.

        Args:
            given: [N, L, S] for a generator with styles, else latents [N, Z].
            labels: [N] classes, which a generator with styles does not take here.
            noise: [N, 1, R, R] for every input of it.

        Returns:
            [N, C, H, W].

        Raises:
            EngineError: the engine failed, or gave NaN.
        """
        feeds = _conditions(given, labels) if self.settings.style is None else {STYLES: np.ascontiguousarray(given)}
        feeds.update({noise_name(n): array for n, array in enumerate(noise)})
        return _finite(self.last.run(feeds)[IMAGE])


def _mean(program: OpenProgram, style: StyleSettings) -> Array:
    assets = program.assets or {}
    if style.mean not in assets:
        raise BundleError(f"the file {style.mean!r} of the mean w is missing", hint="export the model again")
    return read_mean(assets[style.mean], style.size, what=style.mean)


def _conditions(latents: Array, labels: Array | None) -> dict[str, Array]:
    feeds = {LATENTS: np.ascontiguousarray(latents)}
    return feeds if labels is None else {**feeds, CLASS_LABELS: labels}


def _finite(array: Array) -> Array:
    if not np.isfinite(array).all():
        raise EngineError("the model gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
    return array
