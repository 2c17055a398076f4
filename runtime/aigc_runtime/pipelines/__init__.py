"""Generation loops, one file per family; the same loop runs over an engine and over PyTorch."""

from __future__ import annotations

from aigc_runtime.core.session import Session
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings, Pipeline, TextSettings
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["AnyPipeline", "make_pipeline"]

AnyPipeline = TextPipeline | DiffusionPipeline | GanPipeline


def make_pipeline(session: Session, settings: Pipeline) -> AnyPipeline:
    """The pipeline that belongs to the settings, over any session."""
    if isinstance(settings, TextSettings):
        return TextPipeline(session, settings)
    if isinstance(settings, DiffusionSettings):
        return DiffusionPipeline(session, settings)
    return GanPipeline(session, settings)
