"""The pipelines of diffusers from text to pictures that come in, and what sets them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aigc_models.sources.diffusers.components import INDEX_FILE
from aigc_runtime.errors import CheckpointError

__all__ = ["FORMS", "PipelineForm", "refuse_refiner"]

SD_SCALING, XL_SCALING = 0.18215, 0.13025
"""Of the autoencoders of Stable Diffusion 1 and 2, and of XL."""


@dataclass(frozen=True, kw_only=True)
class PipelineForm:
    """What a class of pipelines is.

    Attributes:
        guidance_scale: that diffusers takes where a call says none.
        two_encoders: whether there is a second text encoder with a projection, and a tokenizer of its own.
        foreign_scaling: `scaling_factor` of the published autoencoders that such pipelines do not go with, though their
            latents have as many channels.
    """

    guidance_scale: float
    two_encoders: bool = False
    foreign_scaling: float = XL_SCALING

    def zero_negative(self, index: Mapping[str, Any]) -> bool:
        """Whether guidance leads away from zeros where no negative text is given (`force_zeros_for_empty_prompt`)."""
        return self.two_encoders and index.get("force_zeros_for_empty_prompt", True) is True

    def scaling_notes(self, factor: float) -> tuple[str, ...]:
        """Say of an autoencoder's `scaling_factor` that it is another model's; a number alone is no reason to refuse.

        Args:
            factor: of the autoencoder.
        """
        if factor != self.foreign_scaling:
            return ()
        whose = "Stable Diffusion 1 and 2" if self.two_encoders else "Stable Diffusion XL"
        return (
            f"the VAE's scaling_factor is {factor:g}, that of {whose}: unless this UNet was trained with it the "
            "VAE does not belong here, and pictures come out wrong; copy the whole folder again",
        )


_XL = PipelineForm(guidance_scale=5.0, two_encoders=True, foreign_scaling=SD_SCALING)
FORMS: Mapping[str, PipelineForm] = {
    "StableDiffusionPipeline": PipelineForm(guidance_scale=7.5),
    "StableDiffusionImg2ImgPipeline": PipelineForm(guidance_scale=7.5),
    "StableDiffusionInpaintPipeline": PipelineForm(guidance_scale=7.5),
    "LatentConsistencyModelPipeline": PipelineForm(guidance_scale=8.5),
    "LatentConsistencyModelImg2ImgPipeline": PipelineForm(guidance_scale=8.5),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": replace(_XL, guidance_scale=7.5),
}
"""By `_class_name`."""


def refuse_refiner(index: Mapping[str, Any]) -> None:
    """Refuse a pipeline that refines what another one left noisy: its UNet sees a grade of beauty in place of a size.

    Raises:
        CheckpointError: `requires_aesthetics_score` is set.
    """
    if index.get("requires_aesthetics_score"):
        raise CheckpointError(
            f"{INDEX_FILE}: requires_aesthetics_score is true: a refiner, which sees an aesthetic score and has no "
            "first text encoder, is not supported",
            hint="export the base pipeline, which makes pictures by itself",
        )
