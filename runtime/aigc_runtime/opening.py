"""From a bundle to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aigc_runtime.backends import open_program
from aigc_runtime.bundle.bundle import Bundle, retry_replaced
from aigc_runtime.bundle.signature import PublicKey
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines import AnyPipeline, make_pipeline

__all__ = ["open_pipeline"]


def open_pipeline(
    bundle: Bundle | Path | str,
    *,
    threads: int | None = None,
    expect_manifest_sha256: str | None = None,
    trusted_keys: Sequence[PublicKey] | None = None,
) -> AnyPipeline:
    """Open a bundle, load its engines and make its pipeline.

    The pipeline is a context manager: `with open_pipeline(path) as pipeline` closes its engines at the end.

    Args:
        bundle: an opened bundle, or the path of one. A path may be published to at the same time: the pipeline is that
            of the old bundle or of the new one.
        threads: see `open_session`.
        expect_manifest_sha256: see `Bundle.open`; only with a path.
        trusted_keys: see `Bundle.open`; only with a path.

    Raises:
        BundleError: the bundle is damaged, another one than expected, or not signed by a trusted key.
        ConfigError: a digest or keys for a bundle that is open already.
        EngineError: one of its engines cannot be loaded.
    """
    if isinstance(bundle, Bundle):
        late = {"expect_manifest_sha256": expect_manifest_sha256, "trusted_keys": trusted_keys}
        if given := [name for name, value in late.items() if value is not None]:
            raise ConfigError(
                f"{given[0]} comes too late: the bundle is open already", hint=f"give {given[0]} to Bundle.open"
            )
        return _open(bundle, threads)

    def opened() -> AnyPipeline:
        with Bundle.open(bundle, expect_manifest_sha256=expect_manifest_sha256, trusted_keys=trusted_keys) as found:
            return _open(found, threads)

    return retry_replaced(opened)


def _open(bundle: Bundle, threads: int | None) -> AnyPipeline:
    program = open_program(bundle, threads=threads)
    try:
        pipeline = bundle.manifest.pipeline
        return make_pipeline(program, pipeline.settings, pipeline.engines)
    except BaseException:
        program.close()
        raise
