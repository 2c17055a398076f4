"""Generation loops, one file per family; the same loop runs over an engine and over PyTorch."""

from __future__ import annotations

from pathlib import Path

from aigc_runtime.backends import open_session
from aigc_runtime.bundle import Bundle
from aigc_runtime.manifest import DiffusionSettings, Pipeline, TextSettings
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.session import Session

__all__ = ["AnyPipeline", "make_pipeline", "open_pipeline"]

AnyPipeline = TextPipeline | DiffusionPipeline | GanPipeline


def make_pipeline(session: Session, settings: Pipeline) -> AnyPipeline:
    """The pipeline that belongs to the settings, over any session."""
    if isinstance(settings, TextSettings):
        return TextPipeline(session, settings)
    if isinstance(settings, DiffusionSettings):
        return DiffusionPipeline(session, settings)
    return GanPipeline(session, settings)


def open_pipeline(bundle: Bundle | Path | str, *, threads: int | None = None) -> AnyPipeline:
    """Open a bundle, load its engine and make its pipeline.

    Args:
        bundle: an opened bundle, or the path of one.
        threads: see `open_session`.

    Raises:
        BundleError: the bundle is damaged.
        EngineError: its engine cannot be loaded.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    return make_pipeline(open_session(opened, threads=threads), opened.manifest.pipeline)
