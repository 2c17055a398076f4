"""Make programs of GAN generators that others trained: one engine, or a mapping to styles and a synthesis from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from aigc_models.families.dcgan import DCGANGenerator
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.folded import FoldedSynthesis, NoiseMode
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.program import Part, Program, QuantHints
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.errors import UnknownNameError
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.gan_engines import (
    CLASS_LABELS,
    IMAGE,
    LATENTS,
    MAPPING,
    STYLES,
    SYNTHESIS,
    W,
    noise_name,
)
from aigc_runtime.pipelines.settings import GanSettings, StyleSettings

__all__ = ["dcgan_program", "read_noise_mode", "stylegan2_program"]

NOISE_MODES: tuple[NoiseMode, ...] = ("constant", "random", "none")
MAX_BATCH = 128
"""Rows of one run: the latents of many images are mapped together."""
MAX_IMAGES = 16
"""Images of one run of a synthesis, whose features are large."""


class _TupleModule(nn.Module):
    """A module with one output, as the tuple of one that an export takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """Run the module."""
        return (self.model(*inputs),)


def dcgan_program(
    model: DCGANGenerator,
    *,
    name: str = "dcgan",
    checkpoint: Checkpoint | None = None,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> Program:
    """Make the program of a DCGAN generator.

    Args:
        model: the model.
        name: of the program.
        checkpoint: where its weights came from.
        source: as the user named it.
        notes: for the user.
    """
    config = model.config
    shape = (config.channels[-1], config.image_size, config.image_size)
    last = 3 * (len(config.channels) - 2)
    part = Part(
        module=_TupleModule(model).eval(),
        interface=Interface(
            inputs=(TensorSpec(name=LATENTS, dtype="float32", shape=("batch", config.channels[0])),),
            outputs=(TensorSpec(name=IMAGE, dtype="float32", shape=("batch", *shape)),),
            dims=(DimSpec(name="batch", max=MAX_BATCH),),
        ),
        hints=QuantHints(sensitive=("main.0", f"main.{last}"), sensitive_int8=("main.0",)),
    )
    return Program(
        kind="gan",
        parts={MAIN_ENGINE: part},
        settings=GanSettings(latent_size=config.channels[0], sample_shape=shape, num_classes=None),
        model_config=config.to_dict(),
        name=name,
        checkpoint=checkpoint,
        source=source,
        notes=notes,
    )


def read_noise_mode(options: Mapping[str, Any]) -> NoiseMode:
    """Read the noise of a StyleGAN2 from the options of an export: that of training where nothing is said.

    Raises:
        UnknownNameError: no such noise.
    """
    requested = options.get("noise", NOISE_MODES[0])
    found = next((mode for mode in NOISE_MODES if mode == requested), None)
    if found is None:
        raise UnknownNameError("noise", str(requested), NOISE_MODES)
    return found


def stylegan2_program(
    model: StyleGAN2,
    *,
    noise: NoiseMode = "constant",
    class_names: tuple[str, ...] | None = None,
    name: str = "stylegan2",
    checkpoint: Checkpoint | None = None,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> Program:
    """Make the program of a StyleGAN2 generator: two parts, between which the pipeline truncates and mixes styles.

    Args:
        model: the model.
        noise: what its layers add: `constant` is what it was trained with once, `random` an input of the synthesis for
            every layer, `none` nothing.
        class_names: one per class.
        name: of the program.
        checkpoint: where its weights came from.
        source: as the user named it.
        notes: for the user.
    """
    config = model.config
    random = noise == "random" and config.noise
    shape = (config.image_channels, config.image_size, config.image_size)
    settings = GanSettings(
        latent_size=config.z_size,
        sample_shape=shape,
        num_classes=config.num_classes,
        class_names=class_names,
        style=StyleSettings(size=config.w_size, layers=config.num_ws),
        noise_sides=config.noise_sides if random else (),
    )
    assert settings.style is not None
    if noise != "constant" and not config.noise:
        notes = (*notes, f"the generator adds no noise: {noise!r} changes nothing")
    parts = (_mapping_part(model, config), _synthesis_part(model, config, noise))
    return Program(
        kind="gan",
        parts={part.name: part for part in parts},
        engines={part.name: part.name for part in parts},
        settings=settings,
        assets={settings.style.mean: write_npy(model.mapping.w_avg.detach().numpy())},
        model_config=config.to_dict(),
        name=name,
        checkpoint=checkpoint,
        source=source,
        notes=notes,
    )


def _mapping_part(model: StyleGAN2, config: StyleGAN2Config) -> Part:
    inputs = [TensorSpec(name=LATENTS, dtype="float32", shape=("batch", config.z_size))]
    if config.num_classes is not None:
        inputs.append(TensorSpec(name=CLASS_LABELS, dtype="int64", shape=("batch",), low=0, high=config.num_classes))
    return Part(
        name=MAPPING,
        module=_TupleModule(model.mapping.folded()).eval(),
        interface=Interface(
            inputs=tuple(inputs),
            outputs=(TensorSpec(name=W, dtype="float32", shape=("batch", config.w_size)),),
            dims=(DimSpec(name="batch", max=MAX_BATCH),),
        ),
        # A rounding of w is one of every layer's style, and the mapping is a fraction of the work.
        hints=QuantHints(sensitive=tuple(f"fc{i}" for i in range(config.mapping_layers))),
    )


def _synthesis_part(model: StyleGAN2, config: StyleGAN2Config, noise: NoiseMode) -> Part:
    sides = config.noise_sides if noise == "random" else ()
    module = FoldedSynthesis(model.synthesis, noise)
    return Part(
        name=SYNTHESIS,
        module=_TupleModule(module).eval(),
        hints=QuantHints(sensitive=module.light()),
        interface=Interface(
            inputs=(
                TensorSpec(name=STYLES, dtype="float32", shape=("batch", config.num_ws, config.w_size)),
                *(
                    TensorSpec(name=noise_name(n), dtype="float32", shape=("batch", 1, side, side))
                    for n, side in enumerate(sides)
                ),
            ),
            outputs=(
                TensorSpec(
                    name=IMAGE,
                    dtype="float32",
                    shape=("batch", config.image_channels, config.image_size, config.image_size),
                ),
            ),
            dims=(DimSpec(name="batch", max=MAX_IMAGES),),
        ),
    )
