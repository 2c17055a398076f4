"""manifest.json: read strictly, and written in one canonical form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aigc_runtime.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest
from aigc_runtime.bundle.pipeline_info import pipeline_from_json, pipeline_to_json
from aigc_runtime.bundle.runnable import check_runnable
from aigc_runtime.errors import AigcError, BundleError
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.strict_json import loads_strict

__all__ = ["MAX_MANIFEST_BYTES", "dump_manifest", "manifest_json", "parse_manifest"]

MAX_MANIFEST_BYTES = 1024 * 1024


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json strictly.

    Raises:
        BundleError: names the field, what was found and what is expected.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest.json has {len(data):,} bytes", hint=f"at most {MAX_MANIFEST_BYTES:,} are allowed")
    value = loads_strict(data, what="manifest.json")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BundleError("manifest.json is not that of an aigc-export bundle", hint=f"its format must be {FORMAT!r}")
    version = value.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(
            f"manifest.json has format_version {version!r}, this runtime reads {FORMAT_VERSION}",
            hint="the file is damaged or was edited: get it again",
        )
    if version != FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version}, this runtime reads {FORMAT_VERSION}",
            hint="upgrade the runtime (pip install --upgrade aigc-runtime), or export the bundle again with the "
            "aigc-export that goes with it",
        )
    if "pipeline" not in value:
        raise BundleError("$.pipeline is missing", hint="the bundle is inconsistent: export it again")
    # The types of a pipeline's fields follow from its kind, which a type hint alone cannot say.
    pipeline = pipeline_from_json(value["pipeline"])
    manifest = from_json(_Untyped, {**value, "pipeline": None})
    if not manifest.files:
        raise BundleError("manifest.json lists no files", hint="the bundle is inconsistent: export it again")
    try:
        parsed = Manifest(**{**manifest.__dict__, "pipeline": pipeline})
        check_runnable(parsed)
    except AigcError as err:
        raise BundleError(f"manifest.json: {err.message}", hint=err.hint) from err
    return parsed


@dataclass(frozen=True, kw_only=True)
class _Untyped(Manifest):
    pipeline: Any = None

    def __post_init__(self) -> None:
        """Checked once the pipeline is in place."""


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain JSON."""
    value: dict[str, Any] = to_json(manifest)
    return {**value, "pipeline": pipeline_to_json(manifest.pipeline)}


def dump_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: two spaces, the order of the dataclasses' fields, UTF-8, a final newline."""
    return (json.dumps(manifest_json(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
