"""The pipelines of diffusers from text to pictures that come in, and what sets them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.sources.diffusers.components import INDEX_FILE
from aigc_runtime.errors import CheckpointError

__all__ = ["FORMS", "PipelineForm", "refuse_refiner"]


@dataclass(frozen=True, kw_only=True)
class PipelineForm:
    """What a class of pipelines is.

    Attributes:
        guidance_scale: that diffusers takes where a call says none.
        two_encoders: whether there is a second text encoder with a projection, and a tokenizer of its own.
    """

    guidance_scale: float
    two_encoders: bool = False

    def zero_negative(self, index: Mapping[str, Any]) -> bool:
        """Whether guidance leads away from zeros where no negative text is given (`force_zeros_for_empty_prompt`)."""
        return self.two_encoders and index.get("force_zeros_for_empty_prompt", True) is True


_XL = PipelineForm(guidance_scale=5.0, two_encoders=True)
FORMS: Mapping[str, PipelineForm] = {
    "StableDiffusionPipeline": PipelineForm(guidance_scale=7.5),
    "StableDiffusionImg2ImgPipeline": PipelineForm(guidance_scale=7.5),
    "StableDiffusionInpaintPipeline": PipelineForm(guidance_scale=7.5),
    "LatentConsistencyModelPipeline": PipelineForm(guidance_scale=8.5),
    "LatentConsistencyModelImg2ImgPipeline": PipelineForm(guidance_scale=8.5),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": PipelineForm(guidance_scale=7.5, two_encoders=True),
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
