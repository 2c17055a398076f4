"""Generation loops, one file per family; the same loop runs over an engine and over PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aigc_runtime.backends import open_session
from aigc_runtime.bundle import Bundle
from aigc_runtime.errors import ConfigError
from aigc_runtime.manifest import DiffusionSettings, Pipeline, TextSettings
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.session import Session
from aigc_runtime.signature import PublicKey

__all__ = ["AnyPipeline", "make_pipeline", "open_pipeline"]

AnyPipeline = TextPipeline | DiffusionPipeline | GanPipeline


def make_pipeline(session: Session, settings: Pipeline) -> AnyPipeline:
    """The pipeline that belongs to the settings, over any session."""
    if isinstance(settings, TextSettings):
        return TextPipeline(session, settings)
    if isinstance(settings, DiffusionSettings):
        return DiffusionPipeline(session, settings)
    return GanPipeline(session, settings)


def open_pipeline(
    bundle: Bundle | Path | str, *, threads: int | None = None, trusted_keys: Sequence[PublicKey] | None = None
) -> AnyPipeline:
    """Open a bundle, load its engine and make its pipeline.

    Args:
        bundle: an opened bundle, or the path of one.
        threads: see `open_session`.
        trusted_keys: see `Bundle.open`; only with a path.

    Raises:
        BundleError: the bundle is damaged, or not signed by a trusted key.
        ConfigError: keys for a bundle that is open already.
        EngineError: its engine cannot be loaded.
    """
    if isinstance(bundle, Bundle):
        if trusted_keys is not None:
            raise ConfigError(
                "trusted_keys come too late: the bundle is open already", hint="give trusted_keys to Bundle.open"
            )
        opened = bundle
    else:
        opened = Bundle.open(bundle, trusted_keys=trusted_keys)
    return make_pipeline(open_session(opened, threads=threads), opened.manifest.pipeline)
