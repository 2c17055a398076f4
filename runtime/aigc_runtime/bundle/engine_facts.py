"""What a bundle says about one of its engines, as its back-end is told."""

from __future__ import annotations

from aigc_runtime.backends.base import EngineFacts
from aigc_runtime.bundle.manifest import Manifest

__all__ = ["engine_facts"]


def engine_facts(manifest: Manifest, engine: str) -> EngineFacts:
    """Collect what a back-end needs to know of an engine.

    Args:
        manifest: of the bundle.
        engine: its name.
    """
    info, origin = manifest.engines[engine], manifest.origin
    known = origin is not None and (origin.shipped or origin.checkpoint or origin.source)
    return EngineFacts(
        program=manifest.name if origin is None else origin.source or manifest.name,
        precision=manifest.precision,
        build=info.build,
        proof=info.proof,
        export_arguments=origin.arguments if origin is not None and known else None,
    )
