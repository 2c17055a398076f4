"""Make the program of a generator that enlarges pictures: one engine for tiles of one size."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from aigc_models.effective_reach import effective_reach
from aigc_models.program import Part, Program, QuantHints
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.upscale import IMAGE, LARGE_IMAGE, MAX_TILE, UpscaleSettings

__all__ = ["UpscalerConfig", "upscale_program"]

TILE = 128
"""Side of a tile where that is four overlaps or more: at four times as many pixels, 64 features are 64 MiB."""
EXACT_OVERLAP = 24
"""A network that reaches no farther overlaps by its reach; for others it is measured how far it sees."""
MAX_OVERLAP = 64
SEAM = 0.5 / 255
"""Half a step of 8 bits at one cut, since in a corner two cuts meet."""
TILE_STEP = 32
"""What larger tiles are multiples of."""
MAX_TILES = 16
"""Tiles of one run."""


class UpscalerConfig(Protocol):
    """What the configuration of such a generator says, whatever the architecture."""

    @property
    def channels(self) -> int:
        """Channels of the picture."""
        ...

    @property
    def scale(self) -> int:
        """How many times as wide and high the result is."""
        ...

    @property
    def radius(self) -> int:
        """How many pixels away a pixel of the picture can change the result."""
        ...


class _TupleModule(nn.Module):
    """A module with one output, as the tuple of one that an export takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Run the module."""
        return (self.model(image),)


def upscale_program(
    model: nn.Module,
    *,
    multiple_of: int = 1,
    tile: int | None = None,
    overlap: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    sensitive: tuple[str, ...] = (),
    name: str = "upscale",
    checkpoint: Checkpoint | None = None,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> Program:
    """Make the program of a generator that enlarges pictures.

    Args:
        model: [B, C, H, W] -> [B, C, S H, S W]; its `config` says C, S and how far a pixel reaches.
        multiple_of: what H and W are multiples of.
        tile: side of the tiles that the engine takes; None takes 128, or as many as leave half of a side new. Small
            ones take less memory, and more work for each pixel.
        overlap: pixels at a cut edge of a tile that are not used; None takes as many as a pixel reaches, and where that
            is far, as many as it reaches by more than half a step of 8 bits, measured on the weights, from 24 to 64.
        value_range: black and white, as the model has them.
        sensitive: modules that stay float where others have few bits.
        name: of the program.
        checkpoint: where its weights came from.
        source: as the user named it.
        notes: for the user.

    Raises:
        ConfigError: a tile that is no multiple, or of which the overlap leaves nothing; says the least that fits.
    """
    config: UpscalerConfig | None = getattr(model, "config", None)
    if config is None:
        raise ConfigError(f"{type(model).__name__} has no config", hint="it must say channels, scale and radius")
    channels, scale, radius = config.channels, config.scale, config.radius
    if tile is not None and not 1 <= tile <= MAX_TILE:
        raise ConfigError(f"tile is {tile}", hint=f"must be from 1 to {MAX_TILE:,}")
    farthest = -(-min(radius, MAX_OVERLAP) // multiple_of) * multiple_of
    chosen = overlap
    if chosen is None:
        chosen = farthest
        if farthest > EXACT_OVERLAP:
            seen = effective_reach(
                model.eval(),
                channels=channels,
                farthest=farthest,
                multiple_of=multiple_of,
                tolerance=SEAM,
                value_range=value_range,
            )
            chosen = max(seen, -(-EXACT_OVERLAP // multiple_of) * multiple_of)
        _check_tile(tile, chosen, multiple_of)
    if tile is None:
        tile = max(TILE, -(-4 * chosen // TILE_STEP) * TILE_STEP)
        tile = -(-tile // multiple_of) * multiple_of
    settings = UpscaleSettings(
        scale=scale,
        channels=channels,
        tile=tile,
        overlap=chosen,
        multiple_of=multiple_of,
        value_range=value_range,
    )
    if chosen < radius:
        notes = (
            *notes,
            f"tiles overlap by 2 x {chosen} pixels, and a pixel reaches {radius}, though hardly so far: see "
            "docs/upscaling.md",
        )
    part = Part(
        module=_TupleModule(model).eval(),
        interface=Interface(
            inputs=(TensorSpec(name=IMAGE, dtype="float32", shape=("batch", channels, tile, tile)),),
            outputs=(
                TensorSpec(name=LARGE_IMAGE, dtype="float32", shape=("batch", channels, scale * tile, scale * tile)),
            ),
            dims=(DimSpec(name="batch", max=MAX_TILES),),
        ),
        hints=QuantHints(sensitive=sensitive),
    )
    return Program(
        name=name,
        kind="upscale",
        parts={MAIN_ENGINE: part},
        settings=settings,
        model_config=getattr(config, "to_dict", dict)(),
        checkpoint=checkpoint,
        source=source,
        notes=notes,
    )


def _check_tile(tile: int | None, overlap: int, multiple_of: int) -> None:
    """Refuse tiles of which an overlap that was measured, or is the reach, leaves nothing."""
    least = -(-(2 * overlap + multiple_of) // multiple_of) * multiple_of
    if tile is None or (tile >= least and tile % multiple_of == 0):
        return
    multiple = f" and a multiple of {multiple_of}" if multiple_of > 1 else ""
    raise ConfigError(
        f"tile is {tile}, and tiles of this network overlap by 2 x {overlap} pixels",
        hint=f"must be at least {least}{multiple}",
    )
